"""`jobq chaos`: kill workers while they work, on the user's own store, and count what became of every job."""
