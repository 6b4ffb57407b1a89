"""Enqueue: from a function and its arguments to jobs in the store; load RQ's cron files."""
