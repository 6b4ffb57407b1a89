"""What a process that runs jobs does when it cannot go on as before. A child of a supervisor leaves, and another takes
its place; a process that stands in for RQ's worker has to begin anew by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def nothing() -> None:
    pass


@dataclass(frozen=True)
class Hooks:
    """Called from the thread that notices; each may end the process."""

    on_fenced: Callable[[], object]  # a rescue has struck off the owner's name: nothing more may be done under it
    on_cut_off: Callable[[], object]  # this process will never reach the store again, and has nothing to run
    on_away: Callable[[], object] = nothing  # an attempt to reach the store failed; may raise to give up
    on_orphaned: Callable[[], object] = nothing  # the other end of the control socket is closed
    on_failed: Callable[[], object] = nothing  # the watchdog's thread has ended of an error
    on_stuck: Callable[[], object] | None = None  # code outside of any limit keeps all slots; None: do not look for it
    asks_itself: bool = False  # nobody asks from outside whether the slots live, but looks at the pulse
