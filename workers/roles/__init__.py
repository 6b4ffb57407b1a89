"""What a worker does beside running jobs: timed steps and listeners, each in a thread of the supervisor's process."""
