from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobqueue.workers.running.job_variable import NAME, ROOM, JobVariable

ROOT = Path(__file__).parents[2]
GROWTH = """
import sys
from types import SimpleNamespace
from unittest.mock import Mock
import psutil
from rq.job import Job
from jobqueue.workers.rq_classes.slot import RQSlot
from jobqueue.workers.child.slot import Slot
from jobqueue.workers.child.slot_parts import SlotParts
names = ("owner", "page", "consumer", "protocol", "usage", "stir", "ask_to_retire")
parts = SlotParts(settings=SimpleNamespace(slots=1), **{name: Mock() for name in names})
worker = Mock(job_class=Job)
worker.name = "w"
ours = sys.argv[1] == "Slot"
slot = Slot(0, parts, Mock(), Mock()) if ours else RQSlot(worker, parts, Mock(), in_horse=True)
set_variables = slot._variables()
process, sizes = psutil.Process(), []
for part in range(3):
    for n in range(70_000):
        set_variables(f"{part}-{n:034d}")
    sizes.append(process.memory_full_info().uss)
print(sizes[-1] - sizes[0])
"""


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[JobVariable]:
    """Provide the variable; remove it from the environment afterwards, before its memory is freed."""
    made = JobVariable()
    yield made
    os.unsetenv(NAME)
    os.environ.pop(NAME, None)


def seen() -> list[str | None]:
    """Return its value as seen by Python, by C, by a program that inherits it, and by one that is given os.environ."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    found = getenv(NAME.encode())
    shown = [
        subprocess.run(["sh", "-c", f'printf %s "${NAME}"'], stdout=subprocess.PIPE, env=env).stdout
        for env in (None, os.environ)
    ]
    return [os.environ[NAME], os.getenv(NAME), *(os.fsdecode(it) if it is not None else None for it in (found, *shown))]


@pytest.mark.parametrize("lengths", [[32, 32, 32], [1, ROOM - 11, ROOM - 10, ROOM, 5, 4000, 1, 70, 9000, 3]])
def test_the_variable_is_seen_by_python_by_c_and_by_programs(variable: JobVariable, lengths: list[int]) -> None:
    for length in lengths:
        job_id = (uuid.uuid4().hex * (length // 32 + 1))[:length]
        variable.set(job_id)
        assert seen() == [job_id] * 5


def test_ids_with_other_characters_than_ascii(variable: JobVariable) -> None:
    for job_id in ("überweisung 1", "", "jøb=2"):
        variable.set(job_id)
        assert seen() == [job_id] * 5


def test_a_job_may_change_the_variable(variable: JobVariable) -> None:
    variable.set("first")
    os.environ[NAME] = "its own"
    assert seen() == ["its own"] * 5
    variable.set("second")
    assert seen() == ["second"] * 5
    del os.environ[NAME]
    variable.set("third")
    assert seen() == ["third"] * 5


def test_a_plain_mapping_in_place_of_os_environ(variable: JobVariable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"]})
    variable.set("a")
    assert os.environ[NAME] == "a"


@pytest.mark.parametrize("slot", ["Slot", "RQSlot"])
def test_a_slot_uses_no_memory_per_job(slot: str) -> None:
    """The variable's memory does not grow; os.environ needs 96 bytes for each new value, 13 MB for these."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    grown = subprocess.run([sys.executable, "-c", GROWTH, slot], env=env, stdout=subprocess.PIPE, text=True).stdout
    assert int(grown) < 1_000_000
