"""Do a worker's duties besides running jobs: timed roles and listeners, in threads of the supervisor's process."""
