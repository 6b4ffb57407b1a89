"""Schedules: when they come round, how they are stored, read and deleted."""
