"""One run of one job: decode, call, limit, measure, and keep what it changed from the next."""
