"""A worker's own classes: jobs with methods of the user's, and a serializer for everything that it reads and writes.

They only add. A class that overrides how RQ runs jobs is refused: RQ's own loop has to run it.
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
    """``ours`` with ``theirs`` below it, under the name of theirs; ``more``: attributes of the class."""
    if issubclass(ours, theirs) and not more:
        return ours
    names = {"__module__": theirs.__module__, "__qualname__": theirs.__qualname__, "__doc__": theirs.__doc__}
    made: type[J] = type(theirs.__name__, (ours,) if issubclass(ours, theirs) else (ours, theirs), names | more)
    return made


class OwnRunner(Runner):
    """Runs jobs whose data, meta and results are in the user's own format."""

    def __init__(self, settings: Settings, serializer: Any) -> None:
        super().__init__(settings)
        self.reads = serializer

    def decode(self, data: bytes) -> DecodedCall:
        """Decode a job. Raises NotServed for what this worker was not told to run, DeserializationError for junk."""
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
    """What runs this worker's jobs. The classes were imported before, by ``jobqueue.workers.forking.preload``."""
    return OwnRunner(settings, import_attribute(settings.serializer)) if settings.serializer else Runner(settings)


def job_class_of(settings: Settings) -> type[Job]:
    """The class of this worker's jobs, RQ's unless told."""
    found: Any = import_attribute(settings.job_class) if settings.job_class else Job
    job_class: type[Job] = found
    return job_class
