"""Send many jobs of one function in chunks, and keep a handle to them that takes a few bytes.

The ids of a batch are a random prefix and a number, so that ten million jobs are remembered as a prefix and a count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, overload

from jobqueue.errors import NotSerializable, UsageError
from jobqueue.job import Job, LightJob
from jobqueue.producing.encoding import EncodedCall, SharedFields
from jobqueue.protocol import bounds

if TYPE_CHECKING:
    import redis

    from jobqueue.results.waiter import Waiter

CHUNK = 500  # jobs per transaction
# Bytes of job data per transaction, so that large arguments neither fill memory nor block the store.
CHUNK_BYTES = 4_000_000
LINGER = 0.05  # seconds that the first job of a chunk waits for more

Arguments = tuple[Sequence[Any], Mapping[str, Any]]


class Target(Protocol):
    """What a batch needs of the queue that its jobs are in; ``jobqueue.Queue`` has it."""

    name: str
    serializer: Any

    @property
    def connection(self) -> redis.Redis: ...
    def waiter(self) -> Waiter: ...
    def pack(self, job_id: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> EncodedCall: ...
    def transmit(self, shared: SharedFields, calls: Sequence[EncodedCall]) -> bytes: ...


class Batch(Sequence[Job]):
    """The jobs of one enqueue_many, in order: len, index, slices, iteration, results()."""

    def __init__(self, queue: Target, prefix: str, numbers: range) -> None:
        self._queue = queue
        self._prefix = prefix
        self._numbers = numbers

    @property
    def ids(self) -> Iterator[str]:
        """Iterate over the job ids in order; they are computed, not stored."""
        return (f"{self._prefix}{n:08x}" for n in self._numbers)

    def results(self, timeout: float | None = None) -> Iterator[Any]:
        """Wait for all jobs and iterate over their values in order; memory stays bounded.

        timeout in seconds is for the whole batch. Raises what Job.result() raises, at the failed job's place.
        """
        timeout = bounds.wait(timeout)
        return (outcome.get() for outcome in self._queue.waiter().outcomes(self.ids, timeout))

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Job: ...
    @overload
    def __getitem__(self, index: slice) -> Batch: ...
    def __getitem__(self, index: int | slice) -> Job | Batch:
        if isinstance(index, slice):
            return Batch(self._queue, self._prefix, self._numbers[index])
        job_id = f"{self._prefix}{self._numbers[index]:08x}"
        return LightJob.of(job_id, self._queue.connection, self._queue.serializer)

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} jobs in {self._queue.name!r}>"


class Sender:
    """Sends calls of one function; remembers only the prefix of their ids and their number."""

    def __init__(self, queue: Target, name: str, shared: SharedFields, description: str | None = None) -> None:
        self.sent = 0
        self._queue = queue
        self._name = name
        self._shared = shared
        self._description = description.encode() if description else None
        self._prefix = os.urandom(12).hex()

    def batch(self) -> Batch:
        """Return the jobs that have been sent so far."""
        return Batch(self._queue, self._prefix, range(self.sent))

    def send(self, calls: Iterable[Arguments]) -> Batch:
        """Enqueue the calls in one transaction and return their jobs. Raises NotSerializable, and then sends none."""
        first = self.sent
        packed = [self._pack(first + i, args, kwargs) for i, (args, kwargs) in enumerate(calls)]
        if packed:
            self._queue.transmit(self._shared, packed)
            self.sent = first + len(packed)
        return Batch(self._queue, self._prefix, range(first, self.sent))

    def send_all(self, calls: Iterable[Arguments]) -> Iterator[Batch]:
        """Enqueue chunk by chunk, as far as the iterator is advanced; a chunk waits no longer than LINGER."""
        iterator = iter(calls)
        while chunk := self._chunk(iterator):
            first, count = self.sent, len(chunk)
            self._queue.transmit(self._shared, chunk)
            self.sent = first + count
            yield Batch(self._queue, self._prefix, range(first, self.sent))

    def _chunk(self, calls: Iterator[Arguments]) -> list[EncodedCall]:
        chunk: list[EncodedCall] = []
        size, until = 0, 0.0
        for args, kwargs in calls:
            call = self._pack(self.sent + len(chunk), args, kwargs)
            chunk.append(call)
            size += len(call.data)
            now = time.monotonic()
            until = until or now + LINGER
            if len(chunk) == CHUNK or size >= CHUNK_BYTES or now >= until:
                break
        return chunk

    def _pack(self, n: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> EncodedCall:
        if n >= 1 << 32:
            raise UsageError("A batch holds up to 4,294,967,296 jobs.")
        try:
            call = self._queue.pack(f"{self._prefix}{n:08x}", self._name, args, kwargs)
        except NotSerializable as e:
            if not n:
                raise
            raise NotSerializable(f"Job {n + 1}: {e} The {self.sent} jobs before its chunk are enqueued.") from None
        return call._replace(description=self._description) if self._description else call
