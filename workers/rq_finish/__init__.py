"""RQ's own finish of a job, under a fence: callbacks, retries, repeats, dependents, webhooks."""
