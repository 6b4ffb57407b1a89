"""``jobq cron FILE``: the cron role alone, in the foreground, without children that run jobs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from jobqueue.schedules.timetable import Schedule
from jobqueue.store.open import Store
from jobqueue.workers.launcher import worker_name
from jobqueue.workers.roles.cron_leader import Cron
from jobqueue.workers.roles.cron_registration import CronCard
from jobqueue.workers.roles.timed_role import Periodic
from jobqueue.workers.shared.logs import set_up_logging
from jobqueue.workers.shared.polling import readable
from jobqueue.workers.shared.process_tree import TO_ALL
from jobqueue.workers.supervisor.signals import Signals

log = logging.getLogger(__name__)

GIVE_UP = 5.0  # seconds for the last word, when the store is away


def serve(entries: Sequence[Schedule], store: Store, log_format: str) -> int:
    """Lead, or stand by until the leader is gone, until a signal comes; return the exit code."""
    set_up_logging(log_format, False)
    name, client, signals = worker_name(), store.client(), Signals()
    cron = Cron(name, entries, client)
    registrar = Periodic("jobq-cron", [cron, CronCard(client)], on_away=store.ensure)
    with signals.caught(TO_ALL):
        log.info("%s: %d cron entries", name, len(entries))
        registrar.start()
        readable([signals.fd], None)
        registrar.do(cron.resign)
        left = registrar.stop(GIVE_UP)
    log.info("stopped")
    return 0 if left else 1
