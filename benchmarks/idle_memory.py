"""Measure the memory of an idle worker, process by process: PSS, and what each process shares with no other.

    python benchmarks/idle_memory.py [--python BIN/python] [--shapes thread:4,process:4,thread:100] [--mappings]
                                     [--starts ROUNDS]

The worker runs in an environment that has only jobq and what it needs: a new one, or that of ``--python``, in which
this checkout is installed. PSS is the kernel's (/proc/PID/smaps_rollup), so this needs Linux; it counts a page that
others outside of the tree share (libpython, libc) in part. ``--mappings`` says what the memory belongs to. ``--starts``
measures how long ``--burst`` on an empty queue takes instead; give ``--python`` twice to compare two environments,
interleaved.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import QUEUE, Bench, bench

from jobqueue import Queue
from jobqueue.compare.measure import tree

ROOT = Path(__file__).parents[1]
SETTLE = 3.0  # seconds from the last job to a tree that is idle
WARM_UP = 100  # jobs
KINDS = ("Pss", "Private_Dirty", "Shared_Dirty")


def new_environment(place: Path) -> Path:
    """Install this checkout, not editable, with what it needs; return the environment's Python."""
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    python = place / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", str(ROOT)], check=True)
    return python


@contextmanager
def running(python: Path, on: Bench, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker of this environment; kill its tree at the end."""
    command = [str(python.parent / "jobq"), "worker", QUEUE, "--url", on.url, *flags]
    env = {name: value for name, value in on.env.items() if not name.startswith("PYTHON")}
    with (on.directory / "worker.log").open("ab") as log:
        worker = subprocess.Popen(command, env=env, cwd=on.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield worker
    finally:
        for process in reversed(tree(worker.pid)):
            process.kill()
        worker.wait()


def kilobytes(pid: int) -> dict[str, int]:
    """Return the fields of /proc/PID/smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.partition(":")[0]: int(line.split()[1]) for line in lines}


def mappings(pid: int) -> list[tuple[str, Counter[str]]]:
    """Return what each file, or kind of memory, takes of these KINDS, the largest first."""
    found: dict[str, Counter[str]] = {}
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            name = Path(rest[4]).name if len(rest) > 4 else "(anonymous)"
        elif (kind := first[:-1]) in KINDS:
            found.setdefault(name, Counter())[kind] += int(rest[0])
    return sorted(found.items(), key=lambda item: -item[1]["Pss"])


def measure(python: Path, shape: str, on: Bench, with_mappings: bool) -> None:
    """Print the memory of an idle worker of this shape, after it has run a few jobs."""
    mode, _, number = shape.partition(":")
    with running(python, on, "--mode", mode, "-n", number) as worker, Queue(QUEUE, store=on.store) as queue:
        for job in queue.enqueue_many("square", range(WARM_UP)):
            job.result(60)
        time.sleep(SETTLE)
        processes = tree(worker.pid)
        sizes = [kilobytes(process.pid) for process in processes]
        print(f"{shape}: {sum(size['Pss'] for size in sizes) * 1024 / 1e6:.1f} MB PSS", flush=True)
        for process, size in zip(processes, sizes, strict=True):
            print(f"  pid {process.pid}: " + ", ".join(f"{kind} {size[kind]} kB" for kind in KINDS))
            for name, kinds in mappings(process.pid)[:8] if with_mappings else ():
                print(f"    {name}: " + ", ".join(f"{kind} {kinds[kind]}" for kind in KINDS))


def time_starts(pythons: Sequence[Path], rounds: int, on: Bench) -> None:
    """Print the seconds of a burst on an empty queue, from the start of the program to its end."""
    taken: dict[Path, list[float]] = {python: [] for python in pythons}
    for _ in range(rounds):
        for python in pythons:
            began = time.perf_counter()
            with running(python, on, "-n", "1", "--burst") as worker:
                if worker.wait(60):
                    raise SystemExit((on.directory / "worker.log").read_text())
            taken[python].append(time.perf_counter() - began)
    for python, seconds in taken.items():
        print(f"{python}: median {statistics.median(seconds):.3f} s, least {min(seconds):.3f} s of {rounds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", type=Path, action="append", default=[])
    parser.add_argument("--shapes", default="thread:4,process:4,thread:100")
    parser.add_argument("--mappings", action="store_true")
    parser.add_argument("--starts", type=int, default=0, metavar="ROUNDS")
    options = parser.parse_args()
    with bench() as on:
        pythons = [python.absolute() for python in options.python] or [new_environment(on.directory / "environment")]
        if options.starts:
            time_starts(pythons, options.starts, on)
            return
        for python in pythons:
            for shape in options.shapes.split(","):
                measure(python, shape, on, options.mappings)


if __name__ == "__main__":
    main()
