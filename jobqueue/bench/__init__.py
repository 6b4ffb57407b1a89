"""`jobq bench`: how fast jobq is on the user's own store, and what limits it there."""
