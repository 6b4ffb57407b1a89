"""RQ's worker classes on jobq's engine, for ``rq worker --worker-class jobqueue.rq.Worker`` (or ``.SimpleWorker``)."""

from jobqueue.workers.rq_classes.worker import SimpleWorker, Worker

__all__ = ["SimpleWorker", "Worker"]
