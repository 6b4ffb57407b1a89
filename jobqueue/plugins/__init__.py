"""Extend workers and producers without touching the engine: the Plugin class, and how plugins are found and called."""

from jobqueue.plugins.plugin import JobEnd, NewJob, Plugin, RunningJob, WorkerInfo

__all__ = ["JobEnd", "NewJob", "Plugin", "RunningJob", "WorkerInfo"]
