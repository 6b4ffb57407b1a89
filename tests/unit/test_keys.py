"""The Lua scripts spell the same keys as keys.py."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import fakeredis
import pytest

from jobqueue.protocol import keys, lua

# keys.py's function → (its name in the prelude, arguments)
FUNCTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "queue": ("queue_key", ("q",)),
    "intermediate": ("intermediate_key", ("q",)),
    "first_seen": ("first_seen_key", ("q", "id")),
    "job": ("job_key", ("id",)),
    "dependents": ("dependents_key", ("id",)),
    "dependencies": ("dependencies_key", ("id",)),
    "results": ("results_key", ("id",)),
    "executions": ("executions_key", ("id",)),
    "execution": ("execution_key", ("id", "x")),
    "registry": ("registry_key", ("wip", "q")),
    "worker": ("worker_key", ("w",)),
    "worker_executions": ("worker_executions_key", ("w",)),
    "own": ("own_key", ("w:0.1",)),
    "lease": ("lease_key", ("w",)),
    "fin": ("fin_key", ("id",)),
    "output": ("output_key", ("id",)),
    "waiting_for": ("waiting_for_key", ("id",)),
    "rate_limit": ("limit_key", ("api",)),
    "back": ("back_key", ("q",)),
    "usage": ("usage_key", ("shop.tasks.resize",)),
    "schedule": ("schedule_key", ("id",)),
    "schedule_job": ("schedule_job_key", ("id",)),
    "aside": ("aside_key", ("rq:queue:q",)),
    "cron_history": ("cron_history_key", ("name",)),
}
CONSTANTS = (
    "QUEUES",
    "SUSPENDED",
    "OWNERS",
    "SEQ",
    "PAUSED",
    "USAGE",
    "ASIDE",
    "CRON_LEADER",
    "CRON_NAMES",
    "ENDED",
    "DEATHS",
)


def in_lua(expression: str) -> Any:
    """Evaluate an expression after the prelude, as a script would."""
    source = lua.source("due")  # any script: the prelude comes first
    prelude = source[: source.index("-- DUE: move scheduled jobs")]
    return fakeredis.FakeRedis().eval(f"{prelude}\nreturn {expression}", 0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_key_functions_are_the_same_in_lua(name: str) -> None:
    lua, arguments = FUNCTIONS[name]
    python: Callable[..., str] = getattr(keys, name)
    assert in_lua(f"{lua}({', '.join(repr(a) for a in arguments)})").decode() == python(*arguments)


@pytest.mark.parametrize("name", CONSTANTS)
def test_key_constants_are_the_same_in_lua(name: str) -> None:
    assert in_lua(name).decode() == getattr(keys, name)


def test_every_key_function_of_the_prelude_is_compared() -> None:
    words = set(lua.source("due").split("local function ")[1:])
    in_prelude = {word.split("(")[0] for word in words if "_key(" in word.splitlines()[0].split(")")[0] + "("}
    in_prelude = {name for name in in_prelude if name.endswith("_key")}
    spelled = {lua for lua, _ in FUNCTIONS.values()}
    assert spelled == in_prelude


def test_all_keys_carry_rqs_prefix() -> None:
    for name, function in inspect.getmembers(keys, inspect.isfunction):
        arguments = ["a"] * len(inspect.signature(function).parameters)
        assert function(*arguments).startswith(f"{keys.PREFIX}:"), name
    assert "@PREFIX@" not in lua.source("cycle")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951782399.5, "2000-02-28T23:59:59.500000Z"),
        (951782400, "2000-02-29T00:00:00.000000Z"),
        (1709251199, "2024-02-29T23:59:59.000000Z"),
        (4102444800, "2100-01-01T00:00:00.000000Z"),
        (1795347914.25, "2026-11-22T11:45:14.250000Z"),
    ],
)
def test_times_as_rq_writes_them(seconds: float, text: str) -> None:
    assert in_lua(f"iso({seconds!r})").decode() == text
