"""What all processes of a worker know: shared memory, settings, logs, causes of death, what the kernel says."""
