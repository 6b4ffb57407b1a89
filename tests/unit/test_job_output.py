"""The end of what a job writes and logs is kept, once, and only its own."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any, TypeVar

import pytest

from jobqueue.plugins import capture
from jobqueue.plugins.capture import JobOutput, Tee, current
from jobqueue.plugins.job_output import MOST_PIECES, threads_followed
from jobqueue.protocol.bounds import size_of

T = TypeVar("T")


def kept(output: JobOutput) -> str:
    text = output.fields()["text"]
    assert isinstance(text, bytes)
    return text.decode()


@pytest.fixture
def output() -> Iterator[JobOutput]:
    token = current.set(JobOutput(100))
    found = current.get()
    assert found is not None
    yield found
    current.reset(token)


def test_the_end_of_the_output_is_kept() -> None:
    output = JobOutput(10)
    for number in range(1000):
        output.add(f"{number}\n")
    assert kept(output) == "7\n998\n999\n"
    assert output.fields()["total"] == 3890
    output.add("x" * 1000)
    assert kept(output) == "x" * 10


@pytest.mark.parametrize("size", [1, 7, 5000, 200_000])
def test_what_is_kept_takes_little_more_memory_than_the_limit(size: int) -> None:
    output = JobOutput(10_000)
    written = b"".join(b"%07d" % number for number in range(60_000))
    for at in range(0, len(written), size):
        output.add_bytes(written[at : at + size])
        assert len(output._pieces) <= MOST_PIECES
    assert output.fields() == {"text": written[-10_000:], "total": len(written)}
    assert sum(map(len, output._chunks)) < 10_000 + max(4096, size)


def test_texts_of_many_threads_are_all_kept() -> None:
    output = JobOutput(10**6)
    with ThreadPoolExecutor(8) as pool:
        for n in range(8):
            pool.submit(lambda n=n: [output.add(f"{n} {line}\n") for line in range(2000)])
    lines = kept(output).splitlines()
    assert sorted(lines) == sorted(f"{n} {line}" for n in range(8) for line in range(2000))
    assert [line for line in lines if line.startswith("3 ")] == [f"3 {line}" for line in range(2000)]


def test_after_the_end_nothing_is_kept() -> None:
    output = JobOutput(100)
    output.add("a")
    output.end()
    output.add("b")
    assert output.fields() == {"text": b"a", "total": 1}


# -- threads that a job starts -------------------------------------------------------------------------------------


class Job:
    """A job that writes, in a context of its own."""

    def __init__(self) -> None:
        self.output = JobOutput(1000)

    def run(self, function: Callable[..., T], *args: Any) -> T:
        def call() -> T:
            current.set(self.output)
            return function(*args)

        return Context().run(call)


@contextlib.contextmanager
def printed() -> Iterator[io.StringIO]:
    below = io.StringIO()
    tee: Any = Tee(below)
    with contextlib.redirect_stdout(tee), threads_followed():
        yield below


def in_thread(text: str) -> threading.Thread:
    thread = threading.Thread(target=print, args=(text,))
    thread.start()
    thread.join(10)
    return thread


def test_a_thread_writes_for_the_job_that_started_it() -> None:
    def nested() -> None:
        thread = threading.Thread(target=in_thread, args=("nested",))
        thread.start()
        thread.join(10)

    def timed() -> None:
        timer = threading.Timer(0.0, print, ("timed",))
        timer.start()
        timer.join(10)

    one, two, told = Job(), Job(), ""
    for job, start in (
        (one, lambda: in_thread("of one")),
        (two, lambda: in_thread("of two")),
        (one, nested),
        (two, timed),
    ):
        with printed() as below:
            job.run(start)
            in_thread("of none")
        told += below.getvalue()
    assert (kept(one.output), kept(two.output)) == ("of one\nnested\n", "of two\ntimed\n")
    assert told == "".join(f"{line}\nof none\n" for line in ("of one", "of two", "nested", "timed"))


def test_a_class_of_threads_with_a_run_of_its_own() -> None:
    class Own(threading.Thread):
        def run(self) -> None:
            print("its own")

    def start() -> Own:
        thread = Own()
        thread.start()
        thread.join(10)
        return thread

    job = Job()
    with printed():
        thread = job.run(start)
        assert kept(job.output) == "its own\n"
        assert "run" not in vars(thread)
        with pytest.raises(RuntimeError, match="once"):
            job.run(thread.start)
    assert "run" not in vars(thread)


def test_a_pool_that_jobs_share_writes_for_the_one_whose_work_it_does() -> None:
    one, two = Job(), Job()
    with printed(), ThreadPoolExecutor(1) as pool:
        one.run(lambda: pool.submit(print, "of one").result(10))
        two.run(lambda: pool.submit(print, "of two", end="!\n").result(10))
        pool.submit(print, "of none").result(10)
    assert (kept(one.output), kept(two.output)) == ("of one\n", "of two!\n")


def test_threads_are_as_before_afterwards() -> None:
    before = threading.Thread.start, ThreadPoolExecutor.submit
    with threads_followed():
        assert threading.Thread.start is not before[0]
    assert before == (threading.Thread.start, ThreadPoolExecutor.submit)


def test_what_is_printed_is_kept_and_written(output: JobOutput) -> None:
    below = io.StringIO()
    stream = Tee(below)
    print("one", "zwei é", file=stream)  # type: ignore[arg-type]
    stream.writelines(["a", "b"])
    assert below.getvalue() == kept(output) == "one zwei é\nab"
    assert stream.getvalue() == below.getvalue()  # in all else it is the stream below


def test_outside_of_a_job_nothing_is_kept() -> None:
    below = io.StringIO()
    print("x", file=Tee(below))  # type: ignore[arg-type]
    assert below.getvalue() == "x\n"


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_each_record_is_kept_once(output: JobOutput, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a handler writes to the stream that is watched, and where the logger does not propagate."""
    monkeypatch.setattr(logging.Logger, "callHandlers", capture._keep_records(logging.Logger.callHandlers))
    below = io.StringIO()
    logger = logging.getLogger("test_job_output.own")
    logger.propagate = False
    handler = logging.StreamHandler(Tee(below))
    logger.addHandler(handler)
    try:
        logger.warning("hello %s", "you")
        logger.debug("too quiet")
    finally:
        logger.removeHandler(handler)
    assert kept(output) == "WARNING test_job_output.own: hello you\n"
    assert below.getvalue() == "hello you\n"


@pytest.mark.parametrize("args", [("%d", "x"), ("%s %s", "x"), ("%s", Unprintable())])
def test_a_wrong_call_of_a_logger_raises_nothing(output: JobOutput, args: tuple[Any, ...]) -> None:
    logger = logging.Logger("shop")
    keep = capture._keep_records(lambda *_: None)
    record = logger.makeRecord("shop", logging.WARNING, "tasks.py", 7, args[0], args[1:], None)
    keep(logger, record)
    assert kept(output).startswith("WARNING shop: (the record of tasks.py:7 cannot be printed: ")


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("100", 100), ("64k", 65536), ("1M", 2**20), ("64m", 2**26)])
def test_sizes(text: str, size: int) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "k", "-1", "1g", "65m", "a lot", "1.5k"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give bytes up to 64m"):
        size_of(text)
