"""The consumers: a supervisor, its fork server, children and their slots. Only ``jobq worker`` imports this package."""
