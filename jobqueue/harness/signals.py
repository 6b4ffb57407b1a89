"""End a run at the first signal, and keep further signals from disturbing the clean-up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def one_signal_is_enough() -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a KeyboardInterrupt and ignore all later ones, until the command
    has ended."""

    def interrupt(*_: object) -> None:
        ignore_signals()
        raise KeyboardInterrupt

    before = {each: signal.signal(each, interrupt) for each in _SIGNALS}
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        for each, handler in before.items() if not interrupted else ():
            signal.signal(each, handler)


def ignore_signals() -> None:
    """Ignore signals from here on, for the clean-up; ``one_signal_is_enough`` restores the handlers."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
