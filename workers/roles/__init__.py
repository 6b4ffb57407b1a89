"""What a worker does besides running jobs: timed roles and listeners, in threads of the supervisor's process."""
