"""``concurrent.futures`` over the queue, with workers that the executor starts, or with running ones."""
