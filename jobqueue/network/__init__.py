"""Make connections do what redis-py's do not: notice a silent end, follow a fail-over, wait between attempts."""
