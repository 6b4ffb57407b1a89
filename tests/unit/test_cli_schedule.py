"""``jobq submit --every/--cron``, ``jobq schedule`` and ``jobq cron --check``: what they print and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis
from helpers import Server, jobq

from jobqueue.protocol import keys


def test_submit_list_delete(server: Server, store: redis.Redis) -> None:
    assert jobq(server, "submit", "square", "4", "--every", "60", "--id", "four", "--no-overlap").stdout == "four\n"
    two = jobq(server, "submit", "square", "5", "6", "--cron", "0 3 * * *", "--tz", "UTC", "-q", "low").stdout.split()
    later = jobq(server, "submit", "square", "7", "--in", "1000").stdout.strip()
    listed = [json.loads(line) for line in jobq(server, "schedule", "list", "--json").stdout.splitlines()]
    assert [view["id"] for view in listed] == ["four", *sorted(two), later]
    assert {view["kind"] for view in listed} == {"every", "cron", "once"}
    assert (listed[0]["every"], listed[0]["overlap"], listed[0]["args"]) == (60.0, False, [4])
    assert (listed[1]["cron"], listed[1]["tz"], listed[1]["queue"]) == ("0 3 * * *", "UTC", "low")
    text = jobq(server, "schedule", "list", "-q", "low").stdout
    assert two[0] in text
    assert "four" not in text
    for one in ("four", *two, later):
        assert jobq(server, "schedule", "delete", one).returncode == 0
    assert jobq(server, "schedule", "list", "--json").stdout == ""
    assert [key for key in store.scan_iter("*") if key != keys.QUEUES.encode()] == []


def test_the_first_time_of_an_interval(server: Server, store: redis.Redis) -> None:
    jobq(server, "submit", "square", "4", "--every", "60", "--id", "a", "--at", "2100-01-01T00:00Z")
    assert store.zscore(keys.SCHEDULES, "a") == 4102444800


@pytest.mark.parametrize(
    "flags",
    [
        ["--every", "0"],
        ["--every", "-5"],
        ["--every", "x"],
        ["--every", "nan"],
        ["--cron", ""],
        ["--cron", "sometimes"],
        ["--cron", "0 0 30 2 *"],
        ["--cron", "* * * * *", "--tz", "Mars/Olympus"],
        ["--cron", "* * * * *", "--every", "5"],
        ["--cron", "* * * * *", "--in", "5"],
        ["--every", "5", "--tz", "UTC"],
        ["--every", "5", "--wait"],
        ["--every", "5", "--depends-on", "x"],
        ["--every", "5", "--id", "not allowed"],
        ["--tz", "UTC"],
        ["--no-overlap"],
    ],
)
def test_options_of_schedules_that_are_refused(server: Server, store: redis.Redis, flags: list[str]) -> None:
    run = jobq(server, "submit", "square", "4", *flags)
    assert run.returncode == 2
    assert run.stdout == ""
    assert len(run.stderr.replace(f"store: {server.url} (JOBQ_URL)\n", "").splitlines()) == 1
    assert store.dbsize() == 0


def test_a_second_schedule_with_unique_is_refused(server: Server) -> None:
    flags = ["submit", "square", "4", "--every", "60", "--id", "a", "--unique"]
    assert jobq(server, *flags).returncode == 0
    again = jobq(server, *flags)
    assert (again.returncode, again.stdout) == (2, "")


def test_cron_check(server: Server, store: redis.Redis, tmp_path: Path) -> None:
    path = tmp_path / "entries.py"
    path.write_text("from rq import cron\nfrom jobqueue.tasks import square\ncron.register(square, 'q', interval=9)\n")
    run = jobq(server, "cron", str(path), "--check", "--json")
    [entry] = [json.loads(line) for line in run.stdout.splitlines()]
    assert (entry["name"], entry["every"], entry["queue"]) == ("jobqueue.tasks.square", 9.0, "q")
    assert store.dbsize() == 0
    path.write_text("import nothing_of_that_name")
    run = jobq(server, "cron", str(path), "--check")
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
    served = jobq(server, "worker", "--burst", "--cron", str(path))
    assert served.returncode == 2
    assert len(served.stderr.splitlines()) == 1
