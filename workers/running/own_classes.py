"""Use a worker's own job class (--job-class) and serializer (--serializer).

A job class may only add attributes and methods. One that overrides how RQ runs jobs is refused: only RQ's own loop can
run it.
"""

from __future__ import annotations

from typing import Any, TypeVar

from rq.exceptions import DeserializationError
from rq.job import Job
from rq.utils import import_attribute

from jobqueue.serializers import decompress
from jobqueue.workers.running.limits import PASSING
from jobqueue.workers.running.runner import DecodedCall, Runner
from jobqueue.workers.shared.settings import Settings

J = TypeVar("J", bound=Job)


def on_top(ours: type[J], theirs: type[Job], **more: Any) -> type[J]:
    """Make a class that inherits from ``ours``, then from ``theirs``, with the name of theirs and the attributes
    ``more``."""
    if issubclass(ours, theirs) and not more:
        return ours
    names = {"__module__": theirs.__module__, "__qualname__": theirs.__qualname__, "__doc__": theirs.__doc__}
    made: type[J] = type(theirs.__name__, (ours,) if issubclass(ours, theirs) else (ours, theirs), names | more)
    return made


class OwnRunner(Runner):
    """Run jobs whose data, meta and results are in the format of the worker's own serializer."""

    def __init__(self, settings: Settings, serializer: Any) -> None:
        super().__init__(settings)
        self.reads = serializer

    def decode(self, data: bytes) -> DecodedCall:
        """Decode a job. Raises NotServed if this worker does not serve the function, DeserializationError if the data
        cannot be read."""
        kind = self._settings.serializer
        try:
            name, instance, args, kwargs = self.reads.loads(decompress(data))
        except PASSING:
            raise
        except Exception as e:
            raise DeserializationError(f"The job's data is not a call in the format of {kind}: {e}") from e
        return self._call(name, instance, args, kwargs, kind)

    def _encode(self, value: Any, kind: str) -> bytes:
        encoded: bytes = self.reads.dumps(value)
        return encoded

    def serializer_of(self, data: bytes) -> Any:
        return self.reads


def runner_for(settings: Settings) -> Runner:
    """Make the runner for this worker's jobs. ``jobqueue.workers.forking.preload`` has imported the classes before."""
    return OwnRunner(settings, import_attribute(settings.serializer)) if settings.serializer else Runner(settings)


def job_class_of(settings: Settings) -> type[Job]:
    """Return the class of this worker's jobs; without --job-class, RQ's."""
    found: Any = import_attribute(settings.job_class) if settings.job_class else Job
    job_class: type[Job] = found
    return job_class
