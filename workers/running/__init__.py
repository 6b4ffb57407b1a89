"""Run one job: decode it, call its function, limit and measure that, and undo what the job changed in the process."""
