"""``jobq doctor``: find what is wrong with a store, what will be, and what to do about it."""
