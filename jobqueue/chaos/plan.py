"""Draw everything that a storm will do from its seed: which kills when, and how long each job takes.

The same seed gives the same kills; which jobs they hit depends on the machine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

CHILD, SUPERVISOR, FORK_SERVER, STORE = "child", "supervisor", "fork_server", "store"
KINDS = (CHILD, SUPERVISOR, FORK_SERVER, STORE)
CALM_END = 0.08  # the last part of a storm has no kills, because few jobs are left that they could hit
LONGEST = 0.05  # seconds that a job sleeps at most
STORE_EVERY = 10.0  # seconds between two kills of the store


@dataclass(frozen=True)
class ChaosOptions:
    """The user's options. seconds: how long the kills may last; kills: how many, per mode."""

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
    """One kill. at: 0 to 1, the share of the storm after which it comes; pick: 0 to 1, which of the possible
    victims."""

    at: float
    kind: str
    pick: float


def kills(options: ChaosOptions, mode: str, own_store: bool) -> list[Kill]:
    """Draw the kills of one mode, in order. The store is among the victims only if it was started for this run."""
    draw = random.Random(f"kills {mode} {options.seed}")
    kinds = _kinds(options, own_store)
    draw.shuffle(kinds)
    step = (1 - CALM_END) / max(1, len(kinds))
    return [Kill((i + draw.random()) * step, kind, draw.random()) for i, kind in enumerate(kinds)]


def _kinds(options: ChaosOptions, own_store: bool) -> list[str]:
    """Return the kinds of kill: one supervisor in twelve and one fork server in twenty; of four kills at least one
    supervisor."""
    stores = min(options.kills, max(1, int(options.seconds / STORE_EVERY))) if own_store else 0
    rest = options.kills - stores
    supervisors = max(rest // 12, 1 if rest >= 4 else 0)
    fork_servers = rest // 20
    children = rest - supervisors - fork_servers
    return [CHILD] * children + [SUPERVISOR] * supervisors + [FORK_SERVER] * fork_servers + [STORE] * stores


def durations(options: ChaosOptions, mode: str) -> list[float]:
    """Draw how long each job sleeps: a third not at all, because short jobs leave the least time between two steps."""
    draw = random.Random(f"jobs {mode} {options.seed}")
    return [0.0 if draw.random() < 1 / 3 else round(draw.uniform(0, LONGEST), 4) for _ in range(options.jobs)]
