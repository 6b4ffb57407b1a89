"""The long storm explains runs beyond the intended ones by documented windows, and not every run can be explained."""

from __future__ import annotations

import pytest
from storm_windows import UNEXPLAINED, Act, Run, explained, runs_of, window

LEASE, PID, OTHER = 3.0, 7, 8


def run(ended: float | None = 100.02) -> Run:
    return Run("job", PID, 100.0, ended)


def act(name: str, began: float, ended: float, pid: int = PID) -> Act:
    return Act(name, began, ended, frozenset() if pid == 0 else frozenset([pid]))


@pytest.mark.parametrize(
    ("ended", "acts", "expected"),
    [
        (None, [act("kill_child", 100.01, 100.01)], "killed while it ran"),
        (None, [act("kill_tree", 100.01, 101.0)], "killed while it ran"),
        (None, [act("deploy", 99.0, 105.0)], "interrupted at a stop"),
        (100.02, [act("kill_child", 100.03, 100.03)], "killed before it was reported"),
        (100.02, [act("silence", 99.0, 99.1, 0), act("kill_child", 110.0, 110.0)], UNEXPLAINED),  # before the run
        (100.02, [act("silence", 100.0, 100.1, 0), act("kill_child", 110.0, 110.0)], "killed before it was reported"),
        (100.02, [act("freeze_tree", 100.01, 105.0)], "cut off for longer than the lease"),
        (100.02, [act("kill_store", 100.01, 102.5, 0)], "cut off for longer than the lease"),
        (100.02, [act("fail_over", 99.0, 109.0, 0)], "fail-over"),
        (100.02, [], UNEXPLAINED),
        (None, [], UNEXPLAINED),
        (None, [act("kill_child", 100.01, 100.01, OTHER)], UNEXPLAINED),
        (None, [act("kill_child", 99.0, 99.0)], UNEXPLAINED),  # an earlier process of this number
        (100.02, [act("kill_child", 103.0, 103.0)], UNEXPLAINED),  # it was reported long ago
        (100.02, [act("freeze_tree", 100.01, 105.0, OTHER)], UNEXPLAINED),
        (100.02, [act("freeze_tree", 100.01, 100.5)], UNEXPLAINED),  # nobody takes a job so soon
        (100.02, [act("freeze_child", 100.01, 105.0), act("delay", 99.0, 105.0, 0)], UNEXPLAINED),
        (100.02, [act("kill_store", 110.0, 115.0, 0)], UNEXPLAINED),
    ],
)
def test_the_window_that_explains_a_second_run(ended: float | None, acts: list[Act], expected: str) -> None:
    assert window(run(ended), acts, LEASE) == expected


def test_only_runs_beyond_the_intended_ones_are_counted() -> None:
    lines = [
        "begin once 0a 7 10.0", "end once 0a 10.1",
        "begin twice 0b 7 20.0", "begin twice 0c 8 21.0", "end twice 0c 21.1", "success twice",
        "begin retried 0d 7 30.0", "end retried 0d 30.1", "begin retried 0e 7 31.0", "end retried 0e 31.1",
        "begin odd 0f 7 40.0", "end odd 0f 40.1", "begin odd 10 8 45.0", "end odd 10 45.1", "begin odd 11 8 46.0",
    ]  # fmt: skip
    meant = {"once": 1, "twice": 1, "retried": 3, "odd": 1, "never": 1}
    found, defects = explained(runs_of(lines), meant, [act("kill_child", 20.5, 20.5)], LEASE)
    assert found == {"killed while it ran": 1, UNEXPLAINED: 2}
    assert [text.split(";")[0] for text in defects] == [
        "odd in 7 for 0.100 s, ended: True",
        "odd in 8 for 0.100 s, ended: True",
        "odd in 8 for 0.000 s, ended: False",
    ]
