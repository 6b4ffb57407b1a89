"""Wait for results: one connection for many jobs."""
