"""Run ``jobq cron FILE``: the cron leader alone, in the foreground, without children that run jobs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from jobqueue.schedules.timetable import Schedule
from jobqueue.store.open import Store
from jobqueue.workers.launcher import worker_name
from jobqueue.workers.roles.cron_leader import CronLeader
from jobqueue.workers.roles.cron_registration import CronRegistration
from jobqueue.workers.roles.timed_role import RoleThread
from jobqueue.workers.shared.logs import set_up_logging
from jobqueue.workers.shared.polling import readable
from jobqueue.workers.shared.process_tree import TO_ALL
from jobqueue.workers.supervisor.signals import Signals

log = logging.getLogger(__name__)

GIVE_UP = 5.0  # seconds for the last requests, when the store is away


def serve(entries: Sequence[Schedule], store: Store, log_format: str) -> int:
    """Lead the cron files, or wait until the leader is gone, until a signal comes; return the exit code."""
    set_up_logging(log_format, False)
    name, client, signals = worker_name(), store.client(), Signals()
    cron_leader = CronLeader(name, entries, client)
    roles_thread = RoleThread("jobq-cron", [cron_leader, CronRegistration(client)], on_away=store.ensure)
    with signals.caught(TO_ALL):
        log.info("%s: %d cron entries", name, len(entries))
        roles_thread.start()
        readable([signals.fd], None)
        roles_thread.do(cron_leader.resign)
        left = roles_thread.stop(GIVE_UP)
    log.info("stopped")
    return 0 if left else 1
