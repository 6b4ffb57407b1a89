"""RQ's worker classes on our engine; users name them by jobqueue.rq."""
