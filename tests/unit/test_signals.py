"""Signals are noted in order, and the old handlers are restored."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import weakref

import pytest

from jobqueue.cli import terminated
from jobqueue.cli.terminated import Terminated, terminable
from jobqueue.workers.supervisor.signals import Signals


def readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 5)[0])


def test_signals_are_noted_in_order_and_wake_the_loop() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signals = Signals()
    with signals.caught((signal.SIGTERM, signal.SIGINT)):
        assert signals.take() == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert readable(signals.fd)
        assert signals.take() == [signal.SIGTERM]
        assert select.select([signals.fd], [], [], 0)[0] == []
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert signals.take() == [signal.SIGINT, signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in before} == before


def test_the_old_wakeup_fd_is_restored() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    old = signal.set_wakeup_fd(write)
    try:
        with Signals().caught([signal.SIGTERM]):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.set_wakeup_fd(-1) == write
    finally:
        signal.set_wakeup_fd(old)
        os.close(read)
        os.close(write)


def test_an_exception_of_a_handler_that_python_dropped_is_noticed() -> None:
    """Python drops an exception that a signal handler raises in a weakref's callback, such as imports have."""
    with terminable():

        class Watched:
            pass

        watched = Watched()
        kept = weakref.ref(watched, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "unraisablehook", lambda _: None)
            del watched
        assert kept() is None
        signals = Signals()
        with signals.caught([signal.SIGTERM]):
            assert select.select([signals.fd], [], [], 0)[0]
            assert signals.take() == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("in_hook", [False, True])
def test_an_exception_of_a_handler_that_python_dropped_is_raised_again(
    in_hook: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception is raised again as soon as possible; of the first time nothing is printed. So it is when the next
    signal comes while the hook is still at work for the first."""
    send = terminated._send_soon

    def slow(number: int) -> None:
        """Send the signal; be so slow that it comes before the hook ends."""
        monkeypatch.setattr(terminated, "_send_soon", send)
        send(number)
        time.sleep(0.05)

    if in_hook:
        monkeypatch.setattr(terminated, "_send_soon", slow)

    class Watched:
        pass

    def lose_one() -> None:
        watched = Watched()
        kept = weakref.ref(watched, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        del watched
        assert kept() is None
        time.sleep(30)

    with pytest.raises(Terminated), terminable():
        lose_one()
    assert capsys.readouterr().err == ""
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
