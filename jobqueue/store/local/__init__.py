"""The local store: a Redis server that jobq starts, shares among its processes, and stops."""
