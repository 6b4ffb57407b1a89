"""The supervisor of a worker: the loop that starts, watches and stops its processes. It runs no user code."""
