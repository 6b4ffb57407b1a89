"""Be the horse: what the forked child of an RQ worker does, from the fork to its exit."""

from __future__ import annotations

import contextlib

from rq.exceptions import StopRequested

from jobqueue.store.connection import like
from jobqueue.workers.child.child import leave, obey_the_parent_only, what_is_short
from jobqueue.workers.rq_classes.engine import Engine
from jobqueue.workers.rq_classes.helper_process import take_leave
from jobqueue.workers.rq_classes.horse_flags import HorseFlags
from jobqueue.workers.rq_classes.on_engine import OnOurEngine
from jobqueue.workers.rq_classes.rq_roles import RQRoles
from jobqueue.workers.running import exit_handlers
from jobqueue.workers.running.leftover_timers import survive_leftovers
from jobqueue.workers.running.resource_limits import resource_limits
from jobqueue.workers.shared.deaths import FENCED
from jobqueue.workers.shared.process_tree import Forks


class HorseChild:
    """The child's side of a ``Horse``, made before the fork."""

    def __init__(self, worker: OnOurEngine, rq_roles: RQRoles, owner: str, forks: Forks, flags: HorseFlags) -> None:
        self._worker = worker
        self._rq_roles = rq_roles
        self._owner = owner
        self._forks = forks
        self._flags = flags

    def run(self, parent: int, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> None:
        """(in the child) Run jobs, then exit the process; does not return. ``parent``: the pid of the parent."""
        worker, code = self._worker, 1
        try:
            take_leave(worker, parent, self._owner, self._forks)
            engine = self._make_engine()
            survive_leftovers(engine.begin_anew)
            resource_limits.watch()
            with contextlib.suppress(StopRequested):
                engine.serve(burst, max_jobs, max_idle_time)
            self._flags.set_leaving()
            engine.close()
            if not engine.fenced:
                self._rq_roles.plugins.call("process_stop")
                exit_handlers.run()
            code = FENCED if engine.fenced else 0
            self._flags.set_left()
        except BaseException as e:
            if short := what_is_short(e):  # a job has left it so, or the whole machine is out of it
                worker.log.error("Worker %s: the work horse ends: %s", worker.name, short)
            else:
                worker.log.exception("Worker %s: the work horse failed", worker.name)
        finally:
            leave(code)

    def _make_engine(self) -> Engine:
        worker, roles = self._worker, self._rq_roles
        worker._is_horse, worker.horse = True, None
        engine = Engine(
            worker,
            roles.settings,
            self._owner,
            roles.page,
            like(worker.connection),
            in_horse=True,
            plugins=roles.plugins,
        )
        worker.engine = engine
        obey_the_parent_only(lambda *_: self._stop() if self._flags.stop else None)
        return engine

    def _stop(self) -> None:
        """(signal handler)"""
        self._worker._stop_requested = True
        if self._worker.engine is not None:
            self._worker.engine.stir()
