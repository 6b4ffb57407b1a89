"""Keep what programs print that jobs start by ``subprocess`` or ``asyncio``, and write it on as if they had inherited
stdout and stderr.

    program ── pipe ──► thread jobq-programs ──► the job's output, and stdout or stderr of this process

Only a program whose stdout or stderr would be this process's own gets a pipe in its place. Its job is known by the
context at the start, so this works in every mode. The descriptors 1 and 2 of this process are not touched: C code that
kept the GIL and printed more than a pipe holds would wait for ever for the thread that has to read it (tried).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import select
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jobqueue.plugins.job_output import JobOutput, current

log = logging.getLogger(__name__)

PIECE = 65_536  # bytes that are read at once
MOST_AT_END = 16  # pieces that are read at the end of a job: a program that it left behind may go on printing
PATIENCE = 1.0  # seconds
_FIRST = 4  # the place of ``stdout`` among Popen's arguments; ``stderr`` follows


class Source(NamedTuple):
    """The pipe of one program's stdout or stderr."""

    fd: int
    target: int  # 1 or 2: where it is written on to
    output: JobOutput


class ProgramOutput:
    """The pipes of a process, and the thread that reads them and alone knows which there are. Other threads leave word
    for it: a job may be interrupted at any moment, and must not leave a lock behind."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._sources: dict[int, Source] = {}
        self._new: deque[Source] = deque()
        self._asked: deque[tuple[JobOutput, threading.Event]] = deque()
        self._unwritten: deque[tuple[int, bytes]] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._is_stuck = False  # nobody reads our stdout: a job that asked has waited long enough
        self._is_over = False

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """While inside, programs that jobs start write into pipes. At the end, what is in these is read and written
        on."""
        before = subprocess.Popen.__init__
        thread = threading.Thread(target=self._run, name="jobq-programs", daemon=True)
        thread.start()
        subprocess.Popen.__init__ = self._following(before)  # type: ignore[method-assign]
        try:
            yield
        finally:
            subprocess.Popen.__init__ = before  # type: ignore[method-assign]
            if os.getpid() == self._pid:
                self._is_over = True
                self._wake()
                thread.join(PATIENCE)
                if not thread.is_alive():
                    os.close(self._wake_read)
                    os.close(self._wake_write)

    def drain(self, output: JobOutput) -> None:
        """Wait until what the programs of a job have printed up to now is kept, not for the programs themselves."""
        if self._is_stuck or self._is_over or os.getpid() != self._pid:
            return
        done = threading.Event()
        self._asked.append((output, done))
        self._wake()
        self._is_stuck = not done.wait(PATIENCE)

    # -- programs ------------------------------------------------------------------------------------------------------

    def _following(self, init: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(init)
        def init_for_job(popen: Any, *args: Any, **kwargs: Any) -> None:
            output = current.get()
            if output is None or os.getpid() != self._pid:  # in a copy of this process there is no thread that reads
                init(popen, *args, **kwargs)
                return
            given, ends = list(args), []
            try:
                for target, name in ((1, "stdout"), (2, "stderr")):
                    place = _FIRST + target - 1
                    by_place = place < len(given)
                    if (given[place] if by_place else kwargs.get(name)) is None and (end := self._pipe(target, output)):
                        ends.append(end)
                        if by_place:
                            given[place] = end
                        else:
                            kwargs[name] = end
                init(popen, *given, **kwargs)
            finally:
                for end in ends:
                    os.close(end)

        return init_for_job

    def _pipe(self, target: int, output: JobOutput) -> int | None:
        """Return the end into which a program is to write; None: there is none to be had."""
        try:
            read, write = os.pipe()
        except OSError as e:
            log.warning("what a program of a job prints is not kept: %s", e)
            return None
        os.set_blocking(read, False)
        self._new.append(Source(read, target, output))
        output.catch_up = self.drain
        self._wake()
        return write

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is full: the thread is about to wake
            os.write(self._wake_write, b".")

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_over:
            self._turn(None)
        self._turn(0)

    def _turn(self, timeout: int | None) -> None:
        """Read what there is, say so to those who wait for it, and write it on, for which who reads stdout may take
        long."""
        self._is_stuck = False
        ready = self._ready(timeout)
        while self._new:
            source = self._new.popleft()
            self._sources[source.fd] = source
        for source in [source for fd, source in self._sources.items() if fd in ready]:
            self._read(source)
        while self._asked:
            output, done = self._asked.popleft()
            for source in [source for source in self._sources.values() if source.output is output]:
                for _ in range(MOST_AT_END):
                    if not self._read(source):
                        break
            done.set()
        while self._unwritten:
            _write(*self._unwritten.popleft())

    def _ready(self, timeout: int | None) -> set[int]:
        poll = select.poll()
        for fd in (self._wake_read, *self._sources):
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(timeout)}
        if self._wake_read in ready:
            with contextlib.suppress(OSError):
                os.read(self._wake_read, PIECE)
        return ready

    def _read(self, source: Source) -> bool:
        """Read one piece. Return whether there may be more now."""
        try:
            data = os.read(source.fd, PIECE)
        except BlockingIOError:
            return False
        except OSError:  # a job has closed it
            data = b""
        if data:
            source.output.add_bytes(data)
            self._unwritten.append((source.target, data))
            return True
        del self._sources[source.fd]
        with contextlib.suppress(OSError):
            os.close(source.fd)
        return False


def _write(target: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more, or the disk is full
        while data:
            data = data[os.write(target, data) :]
