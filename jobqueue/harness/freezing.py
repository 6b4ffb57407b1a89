"""Stop a whole process tree for a moment, so that work can be laid out before any of it is done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


def freeze(pid: int) -> None:
    """Stop the process and all its descendants, from the root down, so that no parent sees a stopped child."""
    for process in _tree(pid):
        _signal(process, signal.SIGSTOP)


def thaw(pid: int) -> None:
    """Continue the process and its descendants, the root last."""
    for process in reversed(_tree(pid)):
        _signal(process, signal.SIGCONT)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Keep the tree of this process stopped in the block."""
    freeze(pid)
    try:
        yield
    finally:
        thaw(pid)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, which: int) -> None:
    try:
        process.send_signal(which)
    except psutil.NoSuchProcess:
        pass
