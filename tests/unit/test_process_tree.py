"""The processes that a job started, on systems that list none; tests/lifecycle/test_processes.py has the rest."""

from __future__ import annotations

import errno
import os
import sys

import pytest

from jobqueue.workers.shared import process_tree
from jobqueue.workers.shared.process_tree import OfProcess, collect_orphans, end_processes


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc elsewhere")
@pytest.mark.parametrize("why", [errno.EMFILE, errno.ENFILE, errno.ENOENT])
def test_a_list_that_cannot_be_read_is_empty(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, why: int
) -> None:
    """If a job has used all file descriptors, its worker continues, and logs what it could not do."""

    def refuse(path: str) -> list[str]:
        raise OSError(why, os.strerror(why), path)

    monkeypatch.setattr(process_tree.os, "listdir", refuse)
    assert end_processes(OfProcess.here("child"), 0.0) == 0
    collect_orphans(set())
    assert "what a job started may live on" in caplog.messages[0]
