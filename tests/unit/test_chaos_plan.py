"""The parts of ``jobq chaos`` that need no processes: the plan, its rate, the counting, the report."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import psutil
import pytest
from rich.console import Console

from jobqueue.chaos import plan, report, trees
from jobqueue.chaos.count import ChaosCounts, Fact, Spread, cause, runs, tally
from jobqueue.chaos.plan import ChaosOptions, Kill
from jobqueue.chaos.run import StormResult
from jobqueue.chaos.storm import KillSpacing

OPTIONS = ChaosOptions(seed=7)
GOOD = Fact("finished", outcomes=1, begun=1, done=1)

# -- the plan --------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_storm() -> None:
    assert plan.kills(OPTIONS, "thread", True) == plan.kills(OPTIONS, "thread", True)
    assert plan.durations(OPTIONS, "thread") == plan.durations(OPTIONS, "thread")


def test_another_seed_or_mode_gives_another_storm() -> None:
    other = replace(OPTIONS, seed=8)
    for draw in (lambda o, mode: plan.kills(o, mode, True), plan.durations):
        assert draw(OPTIONS, "thread") != draw(other, "thread")
        assert draw(OPTIONS, "thread") != draw(OPTIONS, "process")


@pytest.mark.parametrize("kills", [0, 1, 2, 5, 10, 60, 1000])
@pytest.mark.parametrize("own_store", [True, False])
def test_the_kills_are_as_many_as_asked_and_spread_over_the_storm(kills: int, own_store: bool) -> None:
    planned = plan.kills(replace(OPTIONS, kills=kills), "thread", own_store)
    times = [kill.at for kill in planned]
    assert len(planned) == kills
    assert times == sorted(times)
    assert all(0 <= at <= 1 - plan.CALM_END and 0 <= kill.pick < 1 for at, kill in zip(times, planned, strict=True))
    halves = Counter(at < (1 - plan.CALM_END) / 2 for at in times)
    assert abs(halves[True] - halves[False]) <= 1


def test_the_store_is_killed_only_if_chaos_started_it() -> None:
    options = replace(OPTIONS, kills=60, seconds=35)
    foreign = Counter(kill.kind for kill in plan.kills(options, "thread", False))
    own = Counter(kill.kind for kill in plan.kills(options, "thread", True))
    assert foreign == {plan.CHILD: 52, plan.SUPERVISOR: 5, plan.FORK_SERVER: 3}
    assert own == {plan.CHILD: 51, plan.SUPERVISOR: 4, plan.FORK_SERVER: 2, plan.STORE: 3}


def test_jobs_take_up_to_50_ms_and_a_third_none() -> None:
    durations = plan.durations(replace(OPTIONS, jobs=3000), "process")
    assert len(durations) == 3000
    assert 0 == min(durations) < 0.045 < max(durations) <= 0.05
    assert 800 < durations.count(0.0) < 1200


# -- its pace --------------------------------------------------------------------------------------------------------


def test_a_kill_waits_for_its_time() -> None:
    spacing = KillSpacing(10, 10.0)
    kill = Kill(0.3, plan.CHILD, 0.0)
    assert not spacing.allows(kill, 0.29, 100.0)
    assert spacing.allows(kill, 0.3, 100.0)


def test_kills_that_had_to_wait_do_not_come_all_at_once() -> None:
    spacing = KillSpacing(10, 10.0)
    spacing.struck(0.8, 100.0)
    late = Kill(0.3, plan.CHILD, 0.0)
    assert not spacing.allows(late, 0.81, 100.1)
    assert spacing.allows(late, 0.86, 100.1)  # half a tenth of the storm later
    assert spacing.allows(late, 0.8, 100.5)  # or half a second: no job ends any more


# -- the counting ----------------------------------------------------------------------------------------------------


def test_every_job_is_counted_in_one_place() -> None:
    facts = [
        GOOD,
        Fact("finished", 1, begun=3, done=2),
        Fact("failed", 1, begun=3, done=0),
        Fact("queued", 0, stands=True),
        Fact("queued", 0, begun=1, stands=False),
        Fact("started", 0, begun=1, stands=True),
        Fact(None),
    ]
    t = tally(facts, ["ChildKilled: killed."])
    assert (t.submitted, t.finished, t.failed, t.stuck, t.lost) == (7, 2, 1, 2, 2)
    assert t.submitted == t.finished + t.failed + t.stuck + t.lost
    assert (t.ran_more_than_once, t.completed_more_than_once) == (2, 1)
    assert t.causes == {"ChildKilled: killed.": 1}
    assert not t.is_kept


@pytest.mark.parametrize(
    ("fact", "name"),
    [
        (Fact(None), "lost"),
        (Fact("queued", stands=True), "stuck"),
        (Fact("finished", outcomes=2, begun=1, done=1), "outcomes_recorded_twice"),
        (Fact("finished", outcomes=1, begun=1, done=0), "finished_without_running"),
        (Fact("finished", outcomes=1, begun=1, done=1, stands=True), "ended_and_still_queued"),
    ],
)
def test_each_way_to_break_the_promise_is_detected(fact: Fact, name: str) -> None:
    t = tally([GOOD, fact])
    assert getattr(t, name) == 1
    assert not t.is_kept
    assert tally([GOOD, GOOD]).is_kept


def test_a_run_is_counted_by_its_token() -> None:
    begun, done = runs({b"a:1": b"done", b"a:2": b"begun", b"b:1": b"done", b"c:x:1": b"done"})
    assert begun == {"a": 2, "b": 1, "c:x": 1}
    assert (done["a"], done["b"], done["c:x"], done["d"]) == (1, 1, 1, 0)


def test_causes_are_counted_without_pid_and_worker_name() -> None:
    first = "ChildKilled: The process that ran this job (pid 12) was killed by SIGKILL."
    assert cause(first) == cause(first.replace("12", "345")) == first.replace(" (pid 12)", "")
    second = "LeaseExpired: The worker vm-1-a0 that ran this job has given no sign of life for 2 s"
    assert cause(second) == cause(second.replace("vm-1-a0", "vm-22-ff")) != second


def test_median_maximum_and_number_of_recovery_times() -> None:
    assert Spread.of([], 1) == Spread(None, None, 0)
    assert Spread.of([3.0], 1) == Spread(3.0, 3.0, 1)
    assert Spread.of([9.0, 1.0, 2.04, 4.0], 1) == Spread(3.0, 9.0, 4)


# -- the report ------------------------------------------------------------------------------------------------------


def outcome(t: ChaosCounts) -> StormResult:
    kills = {plan.CHILD: 8, plan.SUPERVISOR: 1, plan.FORK_SERVER: 0, plan.STORE: 1}
    return StormResult("thread", t, kills, 10, Spread(5.0, 9.0, 8), Spread(), 0, 3.5)


def test_json_has_the_keys_of_the_contract() -> None:
    made = report.as_json([outcome(tally([GOOD, GOOD]))], OPTIONS)
    [run] = json.loads(json.dumps(made))["runs"]
    assert run["mode"] == "thread"
    assert (run["submitted"], run["finished"], run["failed"], run["ran_more_than_once"], run["lost"]) == (2, 2, 0, 0, 0)
    assert run["kills"] == 10
    assert run["recovery_ms"] == {"median": 5.0, "max": 9.0, "count": 8}
    assert run["supervisor_recovery_s"] == {"median": None, "max": None, "count": 0}
    assert made["seed"] == 7


def test_the_verdict_in_words() -> None:
    good = report.conclusion([outcome(tally([GOOD, Fact("finished", 1, 2, 1)]))])
    assert good == "Nothing was lost: 10 kills, 2 jobs, each with one outcome; 1 job ran more than once."
    bad = report.conclusion([outcome(tally([GOOD, Fact(None), Fact("queued", stands=True)]))])
    assert bad == "The promise was broken: of 3 jobs under 10 kills, 1 lost, 1 stuck."


def test_table_and_plain_lines_show_the_same_figures() -> None:
    o = outcome(tally([GOOD] * 3 + [Fact(None)]))
    screen = Console(width=120, file=io.StringIO())
    screen.print(report.table([o]))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    for name, figure, broken in report.rows(o):
        assert name in shown
        assert figure in shown
        assert broken == (name == "lost")
    assert "  lost                              1" in report.lines(o)
    assert ("kills", "10 of 10", False) in report.rows(o)
    assert ("  children", "8", False) in report.rows(o)


# -- processes -------------------------------------------------------------------------------------------------------


def test_children_are_found_and_killed_by_their_pid() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in trees.children_of(os.getpid())
        assert trees.kill(child.pid)
        trees.await_death(child.pid)
        assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
        assert not trees.kill(child.pid)
        assert child.wait() == -9
    assert child.pid not in trees.children_of(os.getpid())
    assert trees.children_of(child.pid) == []
    assert not trees.kill(child.pid)
