"""``concurrent.futures`` over the queue, with workers of its own or those that are there."""
