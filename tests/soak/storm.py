"""Run a storm with every kind of job and of fault: ``python tests/soak/storm.py --seconds 1800``.

    network    a store with an AOF behind a proxy that delays, swallows, silences and cuts; the store is killed too
    sentinel   a primary and a replica under a Sentinel; planned fail-overs, with min-replicas-to-write 1

In both worlds workers of both modes run, and are killed, stopped beyond their lease, deployed; children are killed.
Producers enqueue all the time and remember what was acknowledged. At the end the faults stop, all jobs have to end, and
every acknowledged job is examined: is it stuck, lost, in two places, ended twice; what ran again, and in which of the
documented windows; what key is left.
Prints the findings as JSON and exits with 1 when something is wrong.

``storm_worlds.py`` has the worlds, ``storm_kinds.py`` the kinds of job, ``storm_judge.py`` the examination,
``storm_windows.py`` the windows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from storm_judge import BAD, drained, judge  # noqa: E402
from storm_worlds import Network, Sentinel, World  # noqa: E402

from jobqueue.harness.processes import environment, run_directory  # noqa: E402


def storm(worlds: Iterable[World], seconds: float, per_second: float, every: float) -> bool:
    worlds = list(worlds)
    threads = [thread for world in worlds for thread in world.run(per_second, every)]
    try:
        time.sleep(seconds)
    finally:  # also at Ctrl-C: the faults may start workers, and have to stop before the workers are ended
        for world in worlds:
            world.end()
        for thread in threads:
            thread.join(120)
    good = True
    for world in worlds:
        world.heal()
        deadline = time.monotonic() + 300
        while drained(world) and time.monotonic() < deadline:
            time.sleep(1.0)
        codes = [worker.stop(90) for worker in world.workers]
        result = judge(world) | {"exit codes": codes}
        good &= not any(result[name] for name in BAD) and not any(codes)
        print(json.dumps({world.name: result}, indent=1), flush=True)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--per-second", type=float, default=8.0, help="submits (of one to twenty jobs) in each world")
    parser.add_argument("--every", type=float, default=6.0, help="seconds between two faults in each world")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--world", choices=["network", "sentinel"], action="append")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.randrange(10**6)
    print(f"seed {seed}", flush=True)
    with run_directory("jobq-storm-") as directory, contextlib.ExitStack() as stack:
        worlds: list[World] = []
        for kind in (Network, Sentinel):
            if asked.world is None or kind.name in asked.world:
                where = directory / kind.name
                where.mkdir()
                worlds.append(kind(where, random.Random(f"{seed} {kind.name}"), environment(directory)))
                stack.callback(worlds[-1].close)
        try:
            good = storm(worlds, asked.seconds, asked.per_second, asked.every)
        finally:
            for worker in [worker for world in worlds for worker in world.workers]:
                worker.kill()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
