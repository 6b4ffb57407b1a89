"""Read queues and jobs for an operator, and act on single ones."""
