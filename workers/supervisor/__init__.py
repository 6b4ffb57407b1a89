"""The one loop that keeps a worker's processes alive and stops them, and what it looks at. It runs no user code."""
