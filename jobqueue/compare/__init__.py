"""`jobq compare`: measure a task in threads and in processes, and say which of the two to use."""
