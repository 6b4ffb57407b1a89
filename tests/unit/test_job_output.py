"""The end of what a job writes and logs is kept, once, and only its own."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from jobqueue.plugins import capture
from jobqueue.plugins.capture import JobOutput, Tee, current
from jobqueue.protocol.bounds import size_of


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


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("100", 100), ("64k", 65536), ("1M", 2**20), ("64m", 2**26)])
def test_sizes(text: str, size: int) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "k", "-1", "1g", "65m", "a lot", "1.5k"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give bytes up to 64m"):
        size_of(text)
