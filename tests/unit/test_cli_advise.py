"""``jobq advise`` with given records."""

from __future__ import annotations

import functools
import io
import json
from typing import Any

import pytest
from fake_worker import invoke
from helpers import Server
from rich.console import Console

from jobqueue.cli.advise import Judged, _print_table
from jobqueue.insight.advice import judge
from jobqueue.insight.profile import Machine, Profile
from jobqueue.insight.usage import TaskUsage
from jobqueue.protocol import keys
from jobqueue.protocol.cycle import Spent
from jobqueue.protocol.protocol import Protocol
from jobqueue.store.connection import redis

PROFILE = Profile("shop.web.fetch_prices", 100, 0, 0.05, 0.001, 0.05, 0.06, 0.0, 1.0, None)


@pytest.fixture
def jobq(server: Server) -> Any:
    return functools.partial(invoke, server.url)


def record(
    store: redis.Redis, task: str, wall_ms: float, cpu_ms: float, slots: int = 1, runs: int = 40, bucket: str = "b30"
) -> None:
    wall, cpu = round(wall_ms * 1000), round(cpu_ms * 1000)
    sums: tuple[str | int, ...] = ("runs", runs, "wall_us", runs * wall, bucket, runs, "cpu_us", runs * cpu)
    sums += ("cpu_wall_us", runs * wall, "cpu_runs", runs)
    if slots == 1:
        sums += ("measured", runs, "grew", 0, "growth_kb", 0)
    spent = Spent(task, slots, 2048 if slots == 1 else None, sums)
    store.sadd(keys.OWNERS, "w:0.1")
    Protocol(store).cycle("w:0.1", "w", ["default"], [], 0, 0, [spent])


@pytest.fixture
def three(store: redis.Redis) -> None:
    record(store, "jobqueue.tasks.heavy", 50, 50)
    record(store, "shop.web.fetch", 50, 1)
    record(store, "shop.web.ask", 50, 1, slots=16)


def test_without_any_record_the_output_says_so(jobq: Any) -> None:
    done = jobq("advise")
    assert done.exit_code == 0
    assert "jobq worker" in done.stdout
    assert json.loads(jobq("advise", "--json").stdout)["tasks"] == []


@pytest.mark.parametrize("columns", ["80", "140"])
def test_the_table_for_people(three: None, jobq: Any, columns: str) -> None:
    shown = jobq("advise", COLUMNS=columns).stdout
    assert all(len(line) <= int(columns) or "jobq worker" in line for line in shown.splitlines())
    assert "memory per job cannot be told among threads" in " ".join(shown.split())
    assert "not known" in shown
    assert "2 queues" in shown
    assert "jobq worker waiting --mode thread -n 64 -I shop.web" in shown
    assert "jobq worker computing --mode process" in shown
    assert "It computes: 100% CPU" in shown
    assert "…" not in shown


def test_no_cell_is_cut_off_and_names_are_not_split(store: redis.Redis, jobq: Any) -> None:
    record(store, "shop.web.fetch_prices", 50, 1)
    record(store, "jobqueue.tasks.square", 0.01, 0.01, runs=3000, bucket="b6")
    shown = jobq("advise", COLUMNS="80").stdout
    table = shown.partition("run it with")[2].partition("\n\n")[0]
    assert "any, in batches" in table
    assert "shop.web.fetch_prices" in table


def test_only_the_tasks_that_were_named_are_shown(three: None, jobq: Any) -> None:
    for name in ("heavy", "jobqueue.tasks.heavy", "jobqueue.tasks:heavy"):
        found = json.loads(jobq("advise", name, "--json").stdout)
        assert [task["task"] for task in found["tasks"]] == ["jobqueue.tasks.heavy"]
    done = jobq("advise", "square")
    assert done.exit_code == 1
    assert "no record of square" in done.stderr
    assert "heavy, shop.web.ask" in done.stderr


def test_the_output_as_json(three: None, jobq: Any) -> None:
    found = json.loads(jobq("advise", "--json").stdout)
    heavy, ask, fetch = found["tasks"]
    assert heavy["advice"]["kind"] == "computes"
    assert (heavy["advice"]["mode"], heavy["advice"]["workers"]) == ("process", found["machine"]["cores"])
    assert fetch["records"][0]["runs"] == 40
    assert fetch["records"][0]["memory_peak_mb"] == 2.0
    assert sum(fetch["records"][0]["histogram"].values()) == 40
    assert ask["records"][0]["memory_peak_mb"] is None
    assert [queue["tasks"] for queue in found["queues"]] == [
        ["shop.web.ask", "shop.web.fetch"],
        ["jobqueue.tasks.heavy"],
    ]


def test_reset_deletes_the_records(three: None, store: redis.Redis, jobq: Any) -> None:
    assert "forgot the record of 1 task" in jobq("advise", "heavy", "--reset").stdout
    assert store.smembers(keys.USAGE) == {b"shop.web.fetch", b"shop.web.ask"}
    assert json.loads(jobq("advise", "--reset", "--json").stdout) == {"reset": 2}
    assert store.keys("*usage*") == []
    assert "forgot the record of 0 tasks" in jobq("advise", "--reset").stdout


def test_too_few_runs_are_reported_as_such(store: redis.Redis, jobq: Any) -> None:
    record(store, "shop.web.ask", 50, 1, runs=2)
    shown = jobq("advise").stdout
    assert "too few to tell" in shown
    assert "Too little is known to say" in shown


def test_control_characters_and_markup_in_names_are_escaped(store: redis.Redis, jobq: Any) -> None:
    record(store, "shop.[red]x\x1b[31m[/].y", 50, 1)
    shown = jobq("advise", COLUMNS="140").stdout
    assert "\x1b" not in shown
    assert "shop.[red]x\\x1b[31m[/].y" in shown


def test_tasks_that_were_counted_together_get_no_advice(store: redis.Redis, jobq: Any) -> None:
    record(store, "(other tasks)", 50, 1)
    found = json.loads(jobq("advise", "--json").stdout)
    assert found["tasks"][0]["advice"]["kind"] == "unknown"
    assert found["queues"] == []


def test_a_record_of_a_wrong_type_is_reported(store: redis.Redis, jobq: Any) -> None:
    store.set(keys.USAGE, "mine")
    assert jobq("advise").exit_code == 0
    assert jobq("advise", "--reset").exit_code == 0


@pytest.mark.parametrize("columns", range(20, 120, 3))
def test_the_table_fits_the_terminal_or_says_what_it_left_out(columns: int) -> None:
    one = Judged(TaskUsage("shop.web.fetch_prices", ()), PROFILE, judge(PROFILE, Machine(2, 8000.0, True, "3.13.0")))
    shown = io.StringIO()
    _print_table(Console(file=shown, width=columns, highlight=False), [one], columns >= 100)
    lines = shown.getvalue().splitlines()
    assert "…" not in shown.getvalue()
    assert max(map(len, lines), default=0) <= columns
    if lines:
        assert "fetch_prices" in shown.getvalue()
        head, note = lines[1], " ".join(lines[-4:])
        for name in ("runs", "p50", "CPU", "memory/run", "kind"):
            assert name in head or name in note
