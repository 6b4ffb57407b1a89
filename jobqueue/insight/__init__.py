"""Read what workers recorded of each task, and judge how to run it."""
