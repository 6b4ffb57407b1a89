"""Provide what all processes of a worker use: shared memory, messages, settings, logs, causes of death, reads of the
kernel."""
