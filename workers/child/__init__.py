"""One process that runs jobs: its slots, the thread that claims and settles for them, the thread that watches them."""
