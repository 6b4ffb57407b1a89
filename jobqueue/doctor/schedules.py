"""Find schedules and delayed jobs that no worker can enqueue, whatever program wrote them."""

from __future__ import annotations

from collections.abc import Iterator

from jobqueue.doctor.finding import Finding
from jobqueue.protocol import keys
from jobqueue.schedules.schedules import Schedules
from jobqueue.store.connection import redis
from jobqueue.words import count

MOST = 1_000  # delayed jobs that are read


def examine_schedules(client: redis.Redis) -> Iterator[Finding]:
    """Iterate over the findings about schedules that cannot be enqueued."""
    misplaced = [key for key in (keys.SCHEDULES, keys.CRON_ENTRIES) if client.type(key) not in (b"zset", b"none")]
    if misplaced:
        text = f"{' and '.join(misplaced)}: this is not a list of schedules, so none is enqueued."
        yield Finding("schedules", "problem", text, f"`redis-cli DEL {misplaced[0]}`, and submit the schedules again.")
        return
    schedules = Schedules(client)
    bad = [view for view in (*schedules.recurring(), *schedules.delayed(MOST)[0]) if view.problem]
    if bad:
        text = f"{count(len(bad), 'schedule')} cannot be enqueued, {bad[0].id}: {bad[0].problem}"
        to_do = "`jobq schedule delete ID` removes one, submitting it again replaces it."
        yield Finding("schedules", "warning", text, to_do, tuple(view.id for view in bad))
