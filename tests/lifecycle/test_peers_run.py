"""``benchmarks/peers`` with what needs no download: jobq and the bare pools, in this very environment, a few jobs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = importlib.import_module("peers.__main__")
    monkeypatch.setattr(found, "environment", lambda _name, _anew: Path(sys.executable).parent)
    yield found
    for name in [name for name in sys.modules if name.partition(".")[0] == "peers"]:
        del sys.modules[name]


def options(main: Any, *tables: str, only: tuple[str, ...] = ("jobq", "bare")) -> Any:
    return main.Options(only=only, tables=tables, rounds=1, seconds=0.2, jobs=20, waiting=1000)


def test_every_way_of_measuring(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = importlib.import_module("peers.plan")
    wanted = {"enqueue", "drain: 2 processes", "sleep: 16 slots", "cpu: 1 process", "latency: 1 process",
              "growth: 1 process"}  # fmt: skip
    monkeypatch.setattr(plan, "CELLS", tuple(cell for cell in plan.CELLS if cell.name in wanted))
    report = main.run(options(main, *plan.TABLES), False)
    for found in report["peers"].values():
        assert found["error"] is None
        assert {name: cell["error"] for name, cell in found["cells"].items()} == dict.fromkeys(wanted)
    cells = report["peers"]["jobq"]["cells"]
    assert cells["enqueue"]["figures"].keys() == {"rate", "bulk"}
    assert cells["drain: 2 processes"]["figures"]["commands"][0] > 1
    assert cells["cpu: 1 process"]["figures"]["worker_cpu"][0] >= 0.9 * 0.02
    late = cells["latency: 1 process"]["figures"]
    assert 0 < late["start_p50"][0] < late["result_p50"][0]
    assert "jobq better than the best peer by" in main.reports.for_terminal(report)
    assert nothing_is_left()


def test_a_worker_that_ends_is_noted_and_the_others_are_measured(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = importlib.import_module("peers.candidate")
    launch = candidate.Peer.launch
    monkeypatch.setattr(candidate.Peer, "launch", lambda peer, _command, env: launch(peer, ("python", "-c", "1"), env))
    report = main.run(options(main, "cpu"), False)
    errors = {name: [cell["error"] for cell in found["cells"].values()] for name, found in report["peers"].items()}
    assert all("its worker ended" in error for error in errors["jobq"])
    assert errors["bare"] == [None, None]
    assert nothing_is_left()


def nothing_is_left() -> bool:
    return not [child for child in psutil.Process().children(recursive=True) if "peers" in " ".join(child.cmdline())]
