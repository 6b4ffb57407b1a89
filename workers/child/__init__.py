"""Run jobs in one process: its slots, the consumer that claims and settles for them, the child watchdog."""
