"""`jobq demo`: a comparison of threads and processes that is set in advance, and what it says."""
