from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import pytest
from fake_worker import fail, finish, invoke
from helpers import Server, eventually, program_path

from jobqueue.cli.numbers import Number
from jobqueue.cli.render import json_line
from jobqueue.cli.values import Moment, chunks_of_lines, parse_value
from jobqueue.errors import BadArguments
from jobqueue.job import Job
from jobqueue.protocol import bounds, keys
from jobqueue.store.connection import redis
from jobqueue.words import escaped

ROOT = Path(__file__).parents[2]
TASKS = """
def add(a, b=2): return a + b
def boom(x): raise ValueError("bad")
x = 5
"""


@pytest.fixture
def jobq(server: Server, store: redis.Redis, tmp_path: Path) -> Any:
    (tmp_path / "mytasks.py").write_text(TASKS)
    (tmp_path / "broken.py").write_text("1/0")
    return lambda *args, **kwargs: run(server, tmp_path, *args, **kwargs)


def environment(server: Server) -> dict[str, str]:
    return {**os.environ, "JOBQ_URL": server.url, "PYTHONPATH": program_path(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def run(server: Server, cwd: Path, *args: str, stdin: str | bytes = "") -> subprocess.CompletedProcess[str]:
    data = stdin.encode() if isinstance(stdin, str) else stdin
    command = [sys.executable, "-m", "jobqueue.cli", *args]
    done = subprocess.run(command, input=data, capture_output=True, cwd=cwd, env=environment(server), timeout=60)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(command, done.returncode, out, err)


class Worker(threading.Thread):
    """Stand in for a worker until the end of the block: pop the jobs of the default queue, square numbers, fail
    texts."""

    def __init__(self, store: redis.Redis) -> None:
        super().__init__()
        self._client = store
        self._left = threading.Event()

    def run(self) -> None:
        while not self._left.is_set():
            popped = self._client.blpop(keys.queue("default"), 1)
            if popped:
                job = Job.fetch(popped[1].decode(), connection=self._client)
                value = job.args[0] if job.args else None
                if isinstance(value, str):
                    fail(self._client, job.id, f"Traceback\n  x\nTypeError: \x1b[31m{value}\n")
                else:
                    finish(self._client, job.id, value and value * value)

    def __enter__(self) -> Worker:
        self._client.hset(keys.worker("stand-in"), "version", "rq")
        self._client.sadd(keys.workers_of("default"), keys.worker("stand-in"))
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self.join()


def waiting(store: redis.Redis) -> list[Any]:
    ids = store.lrange(keys.queue("default"), 0, -1)
    return [list(Job.fetch(job_id.decode(), connection=store).args) for job_id in ids]


# -- half a command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["2", "-q"],
        ["2", "-q", "--wait"],
        ["2", "--queue", "--", "3"],
        ["2", "-q=high"],
        ["2", "-q", "a", "--queue", "b"],
        ["2", "-qa", "-qb"],
        ["-f", ""],
        ["-f", "-", "-f", "-"],
        ["--file=-", "-f-"],
        ["-f", "--json"],
        ["2", "--depends-on", ""],
        ["2", "--depends-on", " "],
        ["2", "--kwargs", ""],
        ["2", "--args", ""],
        ["2", "--id", ""],
        ["2", "--id", "a", "--id", "b"],
        ["2", "--url", ""],
        ["2", "--cron", "* * * * *", "--tz", ""],
        ["2", "--timeout"],
        ["2", "--in", "--at"],
        ["2", "--retry", "1", "--retry", "2"],
        ["\udcff"],
        ["2", "--depends-on", "\udcff"],
    ],
    ids=ascii,
)
def test_incomplete_or_repeated_options_are_refused(server: Server, store: redis.Redis, words: list[str]) -> None:
    """The whole command is refused: a value is missing, empty, given twice, or no text."""
    refused = invoke(server.url, "submit", "square", *words)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1
    assert store.keys() == []


NO_NAMES = ["", " ", "\n", "a\nb", "a\x1b[31mb", "x" * 10_000, "\udcff", "-q", "--"]
TAKE_A_QUEUE = [
    ["submit", "square", "2", "-q"],
    ["worker", "--burst", "high", "--"],
    ["pause", "--"],
    ["resume", "--"],
    ["waiting", "--"],
    ["failed", "list", "-q"],
    ["failed", "delete", "--all", "-q"],
    ["failed", "requeue", "--all", "-q"],
    ["schedule", "list", "-q"],
]


@pytest.mark.parametrize("command", TAKE_A_QUEUE, ids=" ".join)
def test_invalid_queue_names_are_refused(server: Server, store: redis.Redis, command: list[str]) -> None:
    for name in NO_NAMES:
        refused = invoke(server.url, *command, name)
        assert (refused.exit_code, refused.stdout) == (2, ""), ascii(name)
        assert len(refused.stderr.splitlines()) == 1
        assert len(refused.stderr) < 400
    assert store.keys() == []


@pytest.mark.parametrize(
    "command", [["status"], ["result"], ["stop"], ["failed", "show"], ["schedule", "delete"]], ids=" ".join
)
def test_invalid_job_ids_are_refused(server: Server, command: list[str]) -> None:
    for name in ("", " ", "\udcff", "x" * 10_000, "a\nb", "\x1b[31m"):
        refused = invoke(server.url, *command, "--", name)
        assert (refused.exit_code > 0, refused.stdout) == (True, ""), ascii(name)
        assert len(refused.stderr.splitlines()) <= 2  # the store is named, if it was asked
        assert "\x1b" not in refused.stderr


def test_zero_is_a_value(store: redis.Redis, jobq: Any) -> None:
    """0 means to keep no result, and is different from no option."""
    done = jobq("submit", "square", "2", "--result-ttl", "0")
    assert store.hget(keys.job(done.stdout.strip()), "result_ttl") == b"0"


# -- ids -----------------------------------------------------------------------------------------------------------


def test_one_id_per_line_in_order(store: redis.Redis, jobq: Any) -> None:
    done = jobq("submit", "square", "1", "-2", "3.5", "-1e2", "--timeout", "1.2")
    ids = done.stdout.splitlines()
    assert done.returncode == 0
    assert [i.encode() for i in ids] == store.lrange(keys.queue("default"), 0, -1)
    assert waiting(store) == [[1], [-2], [3.5], [-100.0]]
    assert store.hget(keys.job(ids[0]), "timeout") == b"2"
    assert done.stderr.startswith("store: ")
    assert len(done.stderr.splitlines()) == 1


def test_arguments_and_options(store: redis.Redis, jobq: Any) -> None:
    done = jobq(
        *("submit", "mytasks:add", "--args", "[1, 2]", "--args", '["a", "b"]', "--retry", "2", "--on-crash", "fail"),
        *("--result-ttl", "1h", "--failure-ttl", "2d", "--ttl", "5m", "--json"),
    )
    first = json.loads(done.stdout.splitlines()[0])["id"]
    assert waiting(store) == [[1, 2], ["a", "b"]]
    fields = store.hgetall(keys.job(first))
    expected = {b"retries_left": b"2", b"jobq_on_crash": b"fail", b"result_ttl": b"3600", b"failure_ttl": b"172800"}
    assert expected.items() <= fields.items()
    assert fields[b"ttl"] == b"300"
    assert json.loads(fields[b"data"])[0] == "mytasks.add"


def test_keyword_arguments_and_no_values(store: redis.Redis, jobq: Any) -> None:
    assert jobq("submit", "mytasks:add", "--kwargs", '{"a": 1}').returncode == 0
    (job_id,) = store.lrange(keys.queue("default"), 0, -1)
    job = Job.fetch(job_id.decode(), connection=store)
    assert (job.args, job.kwargs) == ([], {"a": 1})


def test_values_after_a_double_dash_are_values(store: redis.Redis, jobq: Any) -> None:
    assert jobq("submit", "square", "--no-check", "--", "--wait", "-x").returncode == 0
    assert waiting(store) == [["--wait"], ["-x"]]


def test_a_file(store: redis.Redis, jobq: Any, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b'\xef\xbb\xbf1\r\n\n  \n[2, 3]\nplain text\n"4"')
    assert jobq("submit", "square", "0", "-f", "lines").returncode == 0
    assert waiting(store) == [[0], [1], [[2, 3]], ["plain text"], ["4"]]


def test_later_and_dependent_jobs(store: redis.Redis, jobq: Any) -> None:
    parent = jobq("submit", "square", "1").stdout.strip()
    child = jobq("submit", "square", "2", "--depends-on", parent).stdout.strip()
    assert store.hget(keys.job(child), "status") == b"deferred"
    later = jobq("submit", "square", "3", "--at", "2100-01-01T00:00:00+00:00").stdout.strip()
    assert store.zscore(keys.registry("scheduled", "default"), later) == 4102444800
    soon = jobq("submit", "square", "3", "4", "--in", "1000").stdout.split()
    assert time.time() + 900 < store.zscore(keys.registry("scheduled", "default"), soon[1]) < time.time() + 1100


def test_ids_that_the_user_gives(store: redis.Redis, jobq: Any) -> None:
    assert jobq("submit", "square", "1", "--id", "mine", "--unique").stdout == "mine\n"
    again = jobq("submit", "square", "2", "--id", "mine", "--unique")
    assert (again.returncode, again.stdout) == (2, "")
    assert "already exists" in again.stderr
    assert waiting(store) == [[1]]


# -- waiting -------------------------------------------------------------------------------------------------------


def test_results_in_order_and_nothing_else_on_stdout(store: redis.Redis, jobq: Any) -> None:
    with Worker(store):
        done = jobq("submit", "square", "1", "2", "3", "--wait")
        assert (done.returncode, done.stdout) == (0, "1\n4\n9\n")
        many = jobq("submit", "square", "-f", "-", "--wait", stdin="".join(f"{i}\n" for i in range(3000)))
        assert many.stdout.splitlines() == [str(i * i) for i in range(3000)]


def test_a_failed_job_is_a_line_on_stderr(store: redis.Redis, jobq: Any) -> None:
    with Worker(store):
        done = jobq("submit", "square", "1", "text", "3", "--wait")
        as_json = jobq("submit", "square", "text", "2", "--wait", "--json")
    assert (done.returncode, done.stdout) == (1, "1\n9\n")
    assert done.stderr.splitlines()[1].endswith("failed: TypeError: \\x1b[31mtext")
    bad, good = map(json.loads, as_json.stdout.splitlines())
    assert (bad["ok"], good["ok"], good["result"]) == (False, True, 4)
    assert bad["traceback"].startswith("Traceback")
    assert "\x1b" not in as_json.stdout + as_json.stderr + done.stderr


@pytest.mark.parametrize("kind", ["submit", "result"])
def test_waiting_without_a_worker(store: redis.Redis, server: Server, tmp_path: Path, kind: str) -> None:
    """A message says once what to do; then the wait continues."""
    job_id = run(server, tmp_path, "submit", "square", "7").stdout.strip()
    words = ["submit", "square", "7", "--wait"] if kind == "submit" else ["result", job_id, "--wait"]
    command = [sys.executable, "-m", "jobqueue.cli", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment(server), text=True) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline(), process.stderr.readline()]
        with Worker(store):
            out, err = process.communicate(timeout=30)
    assert lines[0].startswith("store: ")
    assert lines[1] == "jobq: no worker serves 'default' yet: if none is starting, start one with jobq worker\n"
    assert (process.returncode, out, err) == (0, "49\n", "")


def test_lines_of_a_slow_stdin_are_submitted_at_once(store: redis.Redis, server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobqueue.cli", "submit", "square", "-f", "-", "--wait"]
    with (
        Worker(store),
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(server)
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        for i in range(3):  # each line is answered before the next is written
            process.stdin.write(b"%d\n" % i)
            process.stdin.flush()
            assert process.stdout.readline() == b"%d\n" % (i * i)
        process.stdin.close()
        assert process.wait(30) == 0


def test_interrupted_while_waiting(store: redis.Redis, server: Server) -> None:
    command = [sys.executable, "-m", "jobqueue.cli", "submit", "square", "1", "2", "--wait"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(server), text=True
    ) as process:
        eventually(lambda: any(c["cmd"] == "xread" for c in store.client_list()))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "2 jobs were enqueued" in err
    assert "jobq result ID --wait" in err
    assert "Traceback" not in err
    assert len(waiting(store)) == 2


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["nosuch", "1"], 2, "There is no task 'nosuch'"),
        (["sqare", "1"], 2, "Did you mean square"),
        (["mytasks:nope", "1"], 2, "has no function 'nope'"),
        (["mytasks:x", "1"], 2, "is not a function"),
        (["nomodule:f", "1"], 2, "There is no module"),
        (["broken:f", "1"], 2, "ZeroDivisionError"),
        (["mytasks:add"], 2, "missing a required argument: 'a'"),
        (["mytasks:add", "--args", "[1, 2, 3]"], 2, "too many positional arguments"),
        (["square", "1", "--kwargs", '{"k": 1}'], 2, "unexpected keyword argument"),
        (["square", "1", "[NaN]"], 2, "JSON cannot carry"),
        (["square", "1", "1e999"], 2, "JSON cannot carry"),
        (["square", "1", r'"\ud800"'], 2, "surrogate"),
        (["square", "9" * 5000], 2, "cannot be read"),
        (["square", "--args", "1"], 2, "wants a JSON list"),
        (["square", "--kwargs", "[1]"], 2, "wants a JSON object"),
        (["square", "--args", "[1"], 2, "is not JSON"),
        (["square", "1", "--bogus"], 2, "--bogus"),
        (["square", "1", "-x"], 2, "-x"),
        (["square", "1", "--timeout", "0"], 2, "from 1 to"),
        (["square", "1", "--timeout", "soon"], 2, "give seconds from"),
        (["square", "1", "--at", "tomorrow"], 2, "is not a time"),
        (["square", "1", "--at", "2100-01-01", "--in", "1"], 2, "exclude each other"),
        (["square", "1", "--in", "1e300"], 2, "100 years"),
        (["square", "1", "--in", "nan"], 2, "give seconds from 0"),
        (["square", "1", "--ttl", "1e18"], 2, "100 years"),
        (["square", "1", "--result-ttl", "1e18"], 2, "100 years"),
        (["square", "1", "--failure-ttl", "9223372036854775807"], 2, "100 years"),
        (["square", "1", "--every", "3e11"], 2, "100 years"),
        (["square", "1", "--at", "9999-12-31"], 2, "a hundred years from now"),
        (["square", "1", "--unique"], 2, "--unique needs --id"),
        (["square", "1", "2", "--id", "a"], 2, "one job"),
        (["square", "1", "--id", "a b"], 2, "letters"),
        (["square", "1", "--depends-on", "nobody"], 1, "no job nobody"),
        (["square", "-f", "nofile"], 2, "No such file"),
        (["square", "-f", "."], 2, "Is a directory"),
        (["square", "1", "--url", "redis://127.0.0.1:1"], 1, "nobody listens"),
        (["square", "1", "--url", "http://localhost"], 2, "is not a Redis URL"),
        (["square", "1", "--url", "redis://:hunter2#x@127.0.0.1:7399"], 2, "in a password write # as %23"),
        (["square", "1", "--url", "redis://:hunter2/x@127.0.0.1:7399"], 2, "in a password write # as %23"),
        (["nosuch:f", "1"], 2, "in the current directory or elsewhere on Python's path"),
        (["square", "1", "--on-crash", "explode"], 2, "explode"),
    ],
)
def test_invalid_input_is_refused(store: redis.Redis, jobq: Any, args: list[str], code: int, words: str) -> None:
    done = jobq("submit", *args)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert store.keys() == []


@pytest.mark.parametrize("line", [b"[NaN]", b"\xff", b'"\\ud800"'])
def test_a_bad_line_is_named_and_its_chunk_is_not_sent(store: redis.Redis, jobq: Any, line: bytes) -> None:
    done = jobq("submit", "square", "-f", "-", stdin=b"1\n2\n" + line + b"\n4\n")
    assert done.returncode == 2
    assert "Line 3" in done.stderr
    assert "Nothing was enqueued" in done.stderr
    assert store.keys() == []


def test_a_bad_line_in_a_later_chunk(store: redis.Redis, jobq: Any) -> None:
    done = jobq("submit", "square", "-f", "-", stdin="".join(f"{i}\n" for i in range(600)) + "[NaN]\n")
    assert done.returncode == 2
    assert "Line 601" in done.stderr
    assert "500 jobs were enqueued before it" in done.stderr
    assert len(waiting(store)) == len(done.stdout.splitlines()) == 500


# -- pieces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-1.5e3", -1500.0),
        ('"a"', "a"),
        ("a", "a"),
        ("", ""),
        (" 7 ", 7),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("Infinity", "Infinity"),
        ("null", None),
        ("True", "True"),
        ('{"a": [1]}', {"a": [1]}),
        ("[1", "[1"),
        ("007", "007"),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert parse_value(text) == value


def test_brackets_without_end() -> None:
    with pytest.raises(BadArguments):
        parse_value("[" * 100_000)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.2", 2), ("5m", 300), ("1h", 3600), ("-1", -1)])
def test_seconds(text: str, seconds: int) -> None:
    assert Number(bounds.TIMEOUT).convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "x", "0", "-2", "nan", "inf", "1e999", "5 m m"])
def test_not_seconds(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Number(bounds.TIMEOUT).convert(text, None, None)


def test_a_time_without_a_zone_is_local() -> None:
    moment = Moment().convert("2026-07-01T12:00", None, None)
    assert moment.tzinfo is not None
    assert moment.hour == 12


def test_lines_are_read_as_soon_as_they_are_written() -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, b"a\nb\nhalf")
        chunks = chunks_of_lines(reading, linger=0.01)
        assert next(chunks) == [(1, b"a"), (2, b"b")]
        os.write(writing, b" and half\n\nlast")
        os.close(writing)
        assert [line for chunk in chunks for line in chunk] == [(3, b"half and half"), (5, b"last")]
    finally:
        os.close(reading)


def test_control_characters_from_jobs_are_escaped() -> None:
    nasty = "a\x1b[31m\x9b\u202e\r\nb\tc\ud800"
    assert escaped(nasty) == "a\\x1b[31m\\x9b\\u202e\\x0d\nb\tc\\ud800"
    assert json.loads(json_line({"k": nasty})) == {"k": nasty}
    assert json_line(nasty).isascii()


@pytest.mark.timeout(60)
def test_the_time_for_a_long_line_grows_linearly_with_its_length(tmp_path: Path) -> None:
    """64 MB took minutes when each piece that was read was appended to a copy of all earlier ones."""
    file = tmp_path / "long"
    file.write_bytes(b"\xef\xbb\xbfa\r\n" + b"x" * 64_000_000 + b"\n\n  \nlast")
    fd = os.open(file, os.O_RDONLY)
    try:
        (chunk,) = chunks_of_lines(fd)
    finally:
        os.close(fd)
    assert [(number, len(line)) for number, line in chunk] == [(1, 1), (2, 64_000_000), (5, 4)]
