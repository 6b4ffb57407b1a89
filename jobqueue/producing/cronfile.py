"""Load RQ's cron files, which are Python code that calls ``rq.cron.register``, in a process of its own.

    read(path) ──► python -m jobqueue.producing.cronfile ──► RQ's loader ──► one Schedule per entry, as JSON on a pipe

What comes back is data: the process that enqueues it imports nothing of the user's.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from rq.cron import CronJob, CronScheduler

from jobqueue.errors import JobqError, NotSerializable, UsageError
from jobqueue.producing.importing import answer_of, ended_with_us
from jobqueue.producing.queue import Queue
from jobqueue.protocol import bounds
from jobqueue.schedules.timetable import Schedule
from jobqueue.schedules.timing import Timing
from jobqueue.store.connection import Address, client

log = logging.getLogger(__name__)

LONG = 10.0  # seconds until the first warning of a file that does not come to its end


class BadCronFile(UsageError):
    """A cron file, or an entry in it, that cannot be loaded."""


def read(path: str, accept: Sequence[str] = ("json",)) -> list[Schedule]:
    """Load the file (a path, or a module's dotted name) in a process of its own; return the schedules that it
    registers.

    Arguments are stored as JSON; those that JSON cannot carry as a pickle, if ``accept`` has it. Raises BadCronFile.
    """
    receive, send = os.pipe()
    command = [sys.executable, "-P", "-m", "jobqueue.producing.cronfile", path, ",".join(accept), str(send)]
    with open(receive, "rb") as answer:
        try:
            child = subprocess.Popen(command, pass_fds=(send,), stdin=subprocess.DEVNULL, stdout=2, process_group=0)
        finally:
            os.close(send)
        with ended_with_us(child):
            said = answer_of(child, answer.fileno(), on_wait=SlowLoad(path).step)
            status = child.wait()
    try:
        found = json.loads(said)
    except ValueError:
        raise BadCronFile(f"{path}: the process that loaded it left with {status} and said nothing.") from None
    if "error" in found:
        raise BadCronFile(f"{path}: {found['error']}")
    return [_schedule(entry, path) for entry in found["entries"]]


class SlowLoad:
    """Warns of a file that takes long: after 10 seconds, and whenever it took twice as long again."""

    def __init__(self, path: str) -> None:
        self._path, self._begun, self._next = path, time.monotonic(), LONG

    def step(self) -> None:
        took = time.monotonic() - self._begun
        if took >= self._next:
            self._next *= 2
            log.warning(
                "loading %s has not ended after %.0f s: nothing starts before it does. Does it connect to something, or"
                " run something, when it is loaded?",
                self._path,
                took,
            )


def _schedule(entry: dict[str, Any], path: str) -> Schedule:
    fields = {name: base64.b64decode(value) for name, value in entry["fields"].items()}
    timing = Timing(entry["every"], entry["cron"])
    return Schedule(entry["id"], timing, entry["queue"], fields, entry["name"], path, ttl=entry["ttl"])


# -- in the process that loads it ----------------------------------------------------------------------------------


class EntryCollector(CronScheduler):
    """RQ's loader, but entries that cannot be scheduled are kept as errors, where RQ logs them and goes on."""

    problem: Exception | None = None

    def register(self, *args: Any, **kwargs: Any) -> CronJob:
        try:
            return super().register(*args, **kwargs)
        except Exception as e:
            name = getattr(kwargs.get("func"), "__name__", kwargs.get("func"))
            self.problem = self.problem or BadCronFile(f"the entry for {name}: {e}")
            raise


def load(path: str, accept: Sequence[str]) -> list[Schedule]:
    """Load the file in this process. Raises what the file raises, and JobqErrors."""
    nowhere = client(Address(url="redis://127.0.0.1:1"))  # RQ requires a client; nothing is sent
    collector = EntryCollector(nowhere, logging_level="CRITICAL")  # errors are returned instead of logged
    collector.load_config_from_file(path)
    if collector.problem:
        raise collector.problem
    if not collector.get_jobs():
        raise BadCronFile("it registers nothing: it should call rq.cron.register(function, queue, ...).")
    ids = entry_ids((job.name, job.queue_name, job.interval, job.cron) for job in collector.get_jobs())
    return [
        _of_entry(job, schedule_id, accept, nowhere) for job, schedule_id in zip(collector.get_jobs(), ids, strict=True)
    ]


def entry_ids(entries: Iterable[tuple[Any, ...]]) -> list[str]:
    """Return an id for each entry: the same entry has the same id on every machine, whatever its arguments are; equal
    ones are numbered."""
    seen: Counter[tuple[Any, ...]] = Counter()
    ids = []
    for entry in entries:
        seen[entry] += 1
        mark = hashlib.sha256(repr((*entry, seen[entry])).encode()).hexdigest()[:8]
        ids.append(f"{re.sub('[^A-Za-z0-9_-]', '-', str(entry[0]))[:80]}-{mark}")
    return ids


def _of_entry(job: CronJob, schedule_id: str, accept: Sequence[str], nowhere: Any) -> Schedule:
    func, module = job.func, getattr(job.func, "__module__", "")
    if module.startswith("rq_cron_config_") or module == "__main__":
        raise BadCronFile(f"{job.func_name} is defined in the cron file itself: workers cannot import it from there.")
    every = 0.0 if job.interval is None else bounds.EVERY.check_float(f"interval of {job.func_name}", job.interval)
    timing = Timing(every, job.cron or "").check()

    def plan(serializer: str | None) -> Schedule:
        queue = Queue(job.queue_name, connection=nowhere, serializer=serializer)
        options = {"args": job.args, "kwargs": job.kwargs, **job.job_options}
        return queue.plan(func, timing=timing, schedule_id=schedule_id, name=job.name, **options)  # type: ignore[arg-type]

    try:
        return plan(None)
    except NotSerializable as e:
        if "pickle" not in accept:
            raise BadCronFile(f"the entry {job.name}: {e} Or start with --accept json,pickle.") from None
        return plan("pickle")


def _as_json(schedule: Schedule) -> dict[str, Any]:
    fields = {name: base64.b64encode(value).decode() for name, value in schedule.fields.items()}
    t, own = schedule.timing, {"id": schedule.id, "name": schedule.name, "queue": schedule.queue, "ttl": schedule.ttl}
    return {**own, "every": t.every, "cron": t.cron, "fields": fields}


def _in_words(error: BaseException) -> str:
    try:
        return " ".join(f"{type(error).__name__}: {error}".split())
    except BaseException:
        return type(error).__name__


def main() -> None:
    """Load a file and write its schedules as JSON: ``python -m jobqueue.producing.cronfile PATH FORMATS FD``.

    Then leave at once: a thread that the file has started, or an exit handler of it, would keep this process."""
    path, formats, fd = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
    os.set_inheritable(fd, False)
    sys.path.insert(0, "")
    try:
        answer: dict[str, Any] = {"entries": [_as_json(schedule) for schedule in load(path, formats)]}
    except JobqError as e:
        answer = {"error": str(e)}
    except SystemExit as e:
        _leave(e.code if isinstance(e.code, int) else int(e.code is not None))
    except BaseException as e:  # the file is user code and may raise anything, also from the error's __str__
        answer = {"error": _in_words(e)}
    with open(fd, "wb") as out:
        out.write(json.dumps(answer).encode() + b"\n")
    _leave(0)


def _leave(code: int) -> NoReturn:
    with contextlib.suppress(Exception):  # it may be the file's own
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
