"""The write side: from a function and its arguments to jobs in the store; RQ's cron files as such jobs."""
