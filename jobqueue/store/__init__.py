"""How to reach the store: addresses, clients, what redis-py raises, in words, and the store that is open."""
