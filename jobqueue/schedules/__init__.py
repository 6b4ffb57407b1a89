"""Schedules: compute when they come round; store, read and delete them."""
