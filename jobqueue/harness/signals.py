"""One signal ends a run, and no further one disturbs its cleaning up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def one_signal_is_enough() -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a KeyboardInterrupt; more disturb neither the cleaning up nor the
    end of the command: after the first one, they stay ignored."""

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
    """Let nothing disturb the cleaning up from here on; ``one_signal_is_enough`` puts the handlers back."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
