"""Measure jobq and its peers side by side: ``PYTHONPATH=benchmarks python -m peers``; --help has the options."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobqueue.compare.noise import Others
from jobqueue.harness.processes import environment as run_environment
from jobqueue.harness.processes import run_directory
from jobqueue.insight.capacity import cores
from peers import report as reports
from peers.candidate import WARM_UP, Peer, PeerFailed
from peers.environments import ROOT, CannotInstall, environment, names
from peers.measure import MOST, Measure
from peers.plan import TABLES, Cell, Options
from peers.stamps import Stamps
from peers.store import bench_store

USUAL = tuple(table for table in TABLES if table != "growth")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    options = Options(
        only=arguments.only or tuple(names()), tables=arguments.tables, rounds=arguments.rounds,
        seconds=arguments.seconds, jobs=arguments.jobs, waiting=arguments.waiting,
    )  # fmt: skip
    try:
        report = run(options, arguments.fresh)
    except KeyboardInterrupt:
        print("stopped; nothing is left of it", file=sys.stderr)
        return 130
    print(json.dumps(report, indent=1) if arguments.json else reports.for_terminal(report))
    if arguments.write:
        print("wrote", *reports.write(report, arguments.write), file=sys.stderr)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="peers", description="jobq and its peers, measured side by side.")
    made.add_argument("--only", type=_some_of(names()), metavar="NAME,...", help=f"of {', '.join(names())}")
    made.add_argument("--tables", type=_some_of(TABLES), default=USUAL, metavar="NAME,...",
                      help=f"of {', '.join(TABLES)}; all but growth, which takes long, if not given")  # fmt: skip
    made.add_argument("--rounds", type=int, default=5, help="default: 5")
    made.add_argument("--seconds", type=float, default=2.0, help="how long a run lasts, about (default: 2)")
    made.add_argument("--jobs", type=int, help="of each run, in the place of --seconds")
    made.add_argument("--waiting", type=int, default=1_000_000, help="jobs of the table growth (default: 1,000,000)")
    made.add_argument("--fresh", action="store_true", help="make the peers' environments anew, with newest versions")
    made.add_argument("--json", action="store_true", help="print all figures as JSON")
    made.add_argument("--write", type=_page, metavar="FILE", help="write a page too, with pictures beside it")
    return made


def _page(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():  # known before the hours that a run may take
        raise argparse.ArgumentTypeError(f"{path.parent} is no directory: make it first")
    return path


def _some_of(allowed: Sequence[str]) -> Any:
    def chosen(text: str) -> tuple[str, ...]:
        found = tuple(filter(None, text.split(",")))
        if wrong := [name for name in found if name not in allowed]:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: not one of {', '.join(allowed)}")
        return tuple(name for name in allowed if name in found)

    return chosen


def run(options: Options, fresh: bool) -> dict[str, Any]:
    """Measure all that the options name. A peer or a cell that fails is noted, and the others go on."""
    found: dict[str, Any] = {name: {"said": {}, "error": None, "cells": {}} for name in options.only}
    with ExitStack() as stack:
        directory = stack.enter_context(run_directory("jobq-peers-"))
        env = run_environment(directory)
        store = stack.enter_context(bench_store(directory, env))
        stamps = Stamps.create(directory / "stamps", max(MOST, options.waiting, options.jobs or 0) + WARM_UP)
        peers = []
        for name in options.only:
            try:
                say(f"environment of {name}")
                log = directory / f"{name}.log"
                peer = Peer(name, environment(name, fresh), env, store.url, directory / "stamps", log)
                stack.callback(peer.stop)
                peer.start()
                found[name]["said"] = peer.said
                peers.append(peer)
            except (CannotInstall, PeerFailed) as e:
                found[name]["error"] = str(e)
                say(f"{name} is left out: {e}")
        others = Others()
        measure_all(peers, Measure(store, stamps, options), options, found)
        taken = others.lap()
        stamps.close()
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "store": store.version,
        "machine": {
            "cores": cores(), "processor": _processor(), "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.release()} {platform.machine()}", "others": round(taken, 2),
        },
        "options": asdict(options),
        "peers": found,
    }  # fmt: skip


def measure_all(peers: Sequence[Peer], measure: Measure, options: Options, found: dict[str, Any]) -> None:
    """Measure round by round, cell by cell, peer by peer. A cell that failed once is not tried again."""
    for number in range(options.rounds):
        for cell in options.cells():
            for peer in peers:
                note = found[peer.name]["cells"].setdefault(cell.name, {"figures": {}, "error": None})
                if note["error"]:
                    continue
                try:
                    figures = measure.cell(peer, cell)
                except PeerFailed as e:
                    note["error"] = str(e)
                    figures = {}
                for name, value in figures.items():
                    note["figures"].setdefault(name, []).append(value)
                say(f"round {number + 1}/{options.rounds}  {cell.name:<20}{peer.name:<10}{_in_short(cell, note)}")


def _in_short(cell: Cell, note: dict[str, Any]) -> str:
    if note["error"]:
        return f"failed: {note['error']}"
    for name, write in (("rate", "{:,.0f}/s"), ("start_p50", "{:.5f} s to the start"), ("few", "{:.7f} s a job")):
        if values := note["figures"].get(name):
            return write.format(values[-1])
    return f"{note['figures']['pss'][-1] / 1e6:.1f} MB" if "pss" in note["figures"] else f"has no {cell.name}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    said = subprocess.run(command, capture_output=True, text=True)
    return said.stdout.strip() or "unknown"


def _processor() -> str:
    """Return the processor's name (Linux), or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
