"""The local store: a Redis server of our own that is started, shared and stopped."""
