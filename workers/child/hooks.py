"""The actions of a process that runs jobs when it cannot continue as before. A child of a supervisor leaves, and
another one replaces it; a process in place of RQ's worker has to start over by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def nothing() -> None:
    pass


@dataclass(frozen=True)
class Hooks:
    """The actions, called in the thread that notices the reason; each may end the process."""

    on_fenced: Callable[[], object]  # a rescue has struck off the owner's name, so nothing more may be done under it
    on_cut_off: Callable[[], object]  # this process will never reach the store again, and has nothing to run
    on_away: Callable[[], object] = nothing  # an attempt to reach the store failed; may raise to give up
    on_orphaned: Callable[[], object] = nothing  # the other end of the control socket is closed
    on_failed: Callable[[], object] = nothing  # the watchdog's thread has ended of an error
    on_stuck: Callable[[], object] | None = None  # all slots are held, outside of limits; None: do not look
    asks_itself: bool = False  # no process asks whether the slots react; it only looks at the pulse
