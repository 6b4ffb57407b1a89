"""What tasks cost, as workers recorded it, and how they should be run."""
