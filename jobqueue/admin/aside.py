"""List what the scripts moved aside because it was in the store by mistake: keys of a wrong type, ids that are not
text."""

from __future__ import annotations

from typing import Any, NamedTuple

from jobqueue.protocol import keys
from jobqueue.store.connection import redis


class Aside(NamedTuple):
    """A key that was moved, and when: seconds since the epoch, by the store's clock."""

    key: bytes
    moved: float

    def describe(self) -> str:
        """Return what became of it, in one line."""
        text = self.key.decode(errors="backslashreplace")
        if "\0" in text or text.encode() != self.key:
            job_id = ascii(text.removeprefix(keys.job("")))
            return f"the id of the job {job_id} is not valid text: it goes on under a new one that begins with renamed-"
        return (
            f"the key {text!a} was of a wrong type: its content was moved to "
            f"{keys.aside(text)!a} and is kept there for a week"
        )


def moved_aside(client: redis.Redis, since: float = 0.0) -> list[Aside]:
    """Return what was moved since then, oldest first."""
    found: Any = client.zrangebyscore(keys.ASIDE, since, "+inf", withscores=True)
    return [Aside(key, moved) for key, moved in found]
