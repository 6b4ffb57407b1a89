"""What a storm will do, all of it drawn from the seed before it begins: who is killed when, how long each job takes.

Who exactly is hit and how far he was is the machine's part: the same seed is the same storm, not the same damage.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

CHILD, SUPERVISOR, FORK_SERVER, STORE = "child", "supervisor", "fork_server", "store"
KINDS = (CHILD, SUPERVISOR, FORK_SERVER, STORE)
CALM_END = 0.08  # the last part of a storm has no kills, so that they hit workers which have something to lose
LONGEST = 0.05  # seconds of a job
STORE_EVERY = 10.0  # seconds between two kills of the store


@dataclass(frozen=True)
class ChaosOptions:
    """What the user asked for. seconds: how long the kills may last; kills: how many, per mode."""

    modes: tuple[str, ...] = ("thread", "process")
    jobs: int = 2000
    seconds: float = 20.0
    kills: int = 60
    queues: int = 1
    seed: int = 0
    on_crash: str = "retry"
    url: str | None = None


@dataclass(frozen=True)
class Kill:
    """One kill. at: 0 to 1, the part of the storm that is over then; pick: 0 to 1, whom of those that can be hit."""

    at: float
    kind: str
    pick: float


def kills(options: ChaosOptions, mode: str, own_store: bool) -> list[Kill]:
    """Draw the kills of one mode, in order. The store is among the victims only when it is our own."""
    draw = random.Random(f"kills {mode} {options.seed}")
    kinds = _kinds(options, own_store)
    draw.shuffle(kinds)
    step = (1 - CALM_END) / max(1, len(kinds))
    return [Kill((i + draw.random()) * step, kind, draw.random()) for i, kind in enumerate(kinds)]


def _kinds(options: ChaosOptions, own_store: bool) -> list[str]:
    """One supervisor in twelve kills and one fork server in twenty; of four kills at least one supervisor."""
    stores = min(options.kills, max(1, int(options.seconds / STORE_EVERY))) if own_store else 0
    rest = options.kills - stores
    supervisors = max(rest // 12, 1 if rest >= 4 else 0)
    fork_servers = rest // 20
    children = rest - supervisors - fork_servers
    return [CHILD] * children + [SUPERVISOR] * supervisors + [FORK_SERVER] * fork_servers + [STORE] * stores


def durations(options: ChaosOptions, mode: str) -> list[float]:
    """Draw how long each job sleeps: a third not at all, since most can go wrong where jobs are short."""
    draw = random.Random(f"jobs {mode} {options.seed}")
    return [0.0 if draw.random() < 1 / 3 else round(draw.uniform(0, LONGEST), 4) for _ in range(options.jobs)]
