"""What an operator sees and does: the read side of queues and jobs, and what changes single ones."""
