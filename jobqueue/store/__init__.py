"""Reach the store: addresses, clients, redis-py's errors in words, and the open store."""
