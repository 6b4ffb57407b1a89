"""One process that runs jobs: its slots, the consumer that claims and settles for them, the child watchdog."""
