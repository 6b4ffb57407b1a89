"""Record a job's outcome by RQ's own code, under a fence: callbacks, retries, repeats, dependents, webhooks."""
