"""Find dead jobq workers that still hold jobs: their lease has not moved between two examinations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jobqueue.doctor.finding import Finding
from jobqueue.protocol import keys
from jobqueue.store.connection import redis
from jobqueue.words import count

RENEWED_EVERY = 3.0  # seconds between renewals by a worker that lives and reaches the store


class Holding(NamedTuple):
    """What a worker tree had at one moment: its lease, which is a counter, and the number of jobs."""

    lease: bytes | None
    jobs: int


def holdings(client: redis.Redis) -> dict[str, Holding]:
    """Return what each worker tree holds, by its name."""
    owners: Any = client.smembers(keys.OWNERS)
    jobs: Counter[str] = Counter()
    for owner in sorted(owner.decode(errors="replace") for owner in owners):
        held: Any = client.zcard(keys.own(owner))
        jobs[owner.rpartition(":")[0]] += held  # a worker's name may have colons, the child's part has none
    return {name: Holding(client.get(keys.lease(name)), n) for name, n in jobs.items()}  # type: ignore[arg-type]


def examine_leases(before: Mapping[str, Holding], after: Mapping[str, Holding]) -> Iterator[Finding]:
    """Compare two results of ``holdings`` that lie more than RENEWED_EVERY apart."""
    dead = tuple(name for name, then in before.items() if name in after and after[name].lease == then.lease)
    if not dead:
        yield Finding("leases", "ok", f"{count(len(after), 'jobq worker')}, all with a lease that is renewed")
        return
    held = sum(after[name].jobs for name in dead)
    text = count(
        len(dead), "jobq worker does not renew its lease and holds", "jobq workers do not renew theirs and hold"
    )
    text += f" {count(held, 'job')}: {', '.join(dead[:3])}{' ...' if len(dead) > 3 else ''}"
    if len(dead) < len(after):
        yield Finding("leases", "note", f"{text}.", "The other workers rescue these jobs within seconds.", dead)
    else:
        to_do = "Start a worker (`jobq worker`): it brings their jobs back within seconds."
        yield Finding("leases", "problem" if held else "note", f"{text}.", to_do, dead)
