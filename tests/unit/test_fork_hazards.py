"""Which descriptors and generators are found in this process; tests/lifecycle/test_forks.py has whole workers."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import ROOT

from jobqueue.workers.running import randomness
from jobqueue.workers.running.open_descriptors import _hazard, open_descriptors, opened_since


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def hazard_of(number: int) -> str:
    return _hazard(number, os.fstat(number))


def test_connections_are_named_by_their_peer(opened: ExitStack, tmp_path: Path) -> None:
    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, f"{tmp_path}/s")):
        listener = opened.enter_context(socket.socket(family))
        listener.bind(address)
        assert hazard_of(listener.fileno()) == "a socket that is not connected"
        listener.listen()
        peer = opened.enter_context(socket.socket(family))
        peer.connect(listener.getsockname())
        name = listener.getsockname()
        assert hazard_of(peer.fileno()) == f"a connection to {':'.join(map(str, name)) if family == 2 else name}"
        assert hazard_of(listener.fileno()) == ""
    assert peer.getpeername()  # looking at it did not close it


def test_sockets_for_datagrams_to_a_daemon_are_no_hazard(opened: ExitStack, tmp_path: Path) -> None:
    """A socket without a name, such as syslog's, receives nothing."""
    daemon, ours = (opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) for _ in range(2))
    assert hazard_of(ours.fileno()) == ""
    daemon.bind(f"{tmp_path}/log")
    ours.connect(f"{tmp_path}/log")
    assert hazard_of(ours.fileno()) == ""
    assert hazard_of(daemon.fileno()) == "a socket for datagrams"


def test_only_descriptors_opened_since_are_found(opened: ExitStack, tmp_path: Path) -> None:
    """A second descriptor of an open file does not count as new; a descriptor number that is used again does."""
    first = opened.enter_context((tmp_path / "y").open("w"))
    read, write = os.pipe()
    opened.callback(os.close, read)
    before = open_descriptors()
    again = os.dup(read)
    opened.callback(os.close, again)
    os.close(write)
    second = opened.enter_context((tmp_path / "x").open("w+"))
    assert second.fileno() in opened_since(before)
    assert not {first.fileno(), read, again} & opened_since(before).keys()


def test_the_search_does_not_create_lazy_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"made, for its {name}")

        @property
        def __class__(self) -> type:
            raise AssertionError("made, for its class")

    module = types.ModuleType("lazy_shop")
    module.it, module.dice = Lazy(), random.Random(1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lazy_shop", module)
    from jobqueue.workers.running.fork_hazards import names_of

    assert names_of([0], ["lazy_shop"]) == {}
    assert randomness.own_generators(["lazy_shop"]) == {"lazy_shop.dice": module.dice}


def test_random_generators_in_served_modules_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators in the served packages are found, but not the global one (under any name) or one that asks the
    system."""
    tasks, other = types.ModuleType("shop.tasks"), types.ModuleType("other")
    tasks.dice = other.dice = random.Random(1)  # type: ignore[attr-defined]
    tasks.shared, tasks.draw, tasks.system = random, random.random, random.SystemRandom()  # type: ignore[attr-defined]
    for module in (tasks, other):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    assert list(randomness.own_generators(["shop.more:function"])) == ["shop.tasks.dice"]
    before = randomness.states_of_own(["shop"])
    assert randomness.states_of_own(["shop"]) == before
    tasks.dice.random()
    assert randomness.states_of_own(["shop"]) != before


def test_numpy_and_torch_are_seeded_where_they_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator in place of numpy's that cannot be seeded does not stop the seeding of the others."""
    said: list[str] = []

    class Unseedable:
        pass

    def seed() -> None:
        said.append("numpy")
        raise TypeError("can only re-seed a MT19937 BitGenerator")

    numpy = types.SimpleNamespace(
        seed=seed,
        get_bit_generator=Unseedable,
        set_bit_generator=lambda it: said.append(type(it).__name__),
    )
    torch = types.SimpleNamespace(default_generator=types.SimpleNamespace(seed=lambda: said.append("torch")))
    monkeypatch.setitem(sys.modules, "numpy.random", numpy)
    monkeypatch.setitem(sys.modules, "torch", torch)
    random.seed(1)
    randomness.reseed()
    assert said == ["numpy", "Unseedable", "torch"]
    assert random.random() != random.Random(1).random()
    monkeypatch.delitem(sys.modules, "numpy.random")
    monkeypatch.delitem(sys.modules, "torch")
    randomness.reseed()


HOSTILE = """
import random, sys, types

class Meta(type):
    def __getattribute__(cls, name):
        raise SystemExit(4)

class Model(metaclass=Meta):
    fileno = 1

class File:
    def fileno(self):
        raise SystemExit(4)

class Dice(random.Random):
    def getstate(self):
        raise SystemExit(4)

class Lazy(types.ModuleType):
    def __getattribute__(self, name):
        raise SystemExit(4)

model, file, dice, count = Model(), File(), Dice(), 0
lazy = sys.modules["hostile_shop.lazy"] = Lazy("hostile_shop.lazy")
"""


ASKED = """
import os
from jobqueue.workers.running import fork_hazards, randomness
from jobqueue.workers.running.open_descriptors import hazards_among

read, write = os.pipe()
assert fork_hazards.names_of([read], ["hostile_shop"]) == {}
assert list(randomness.own_generators(["hostile_shop"])) == ["hostile_shop.dice"]
before = randomness.states_of_own(["hostile_shop"])
assert randomness.states_of_own(["hostile_shop"]) != before
assert list(hazards_among({read: os.fstat(read)})) == [read]
print("nobody was asked")
"""


def test_the_search_runs_no_code_of_users(tmp_path: Path) -> None:
    """A user's metaclass, descriptor, generator or module may run any code when it is read, so none is read. (This runs
    in a process of its own, as other tests look at all modules of this one.)"""
    (tmp_path / "hostile_shop.py").write_text(HOSTILE)
    (tmp_path / "asks.py").write_text(f"import hostile_shop\n{ASKED}")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "asks.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "nobody was asked\n"), done.stderr
