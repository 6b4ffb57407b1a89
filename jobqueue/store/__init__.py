"""How to reach the store: addresses, clients, retries, and what redis-py raises, in words."""
