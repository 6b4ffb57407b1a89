"""`jobq demo`: run a comparison of threads and processes with fixed settings, and explain what it shows."""
