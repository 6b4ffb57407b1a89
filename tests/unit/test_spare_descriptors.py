"""The reserve of descriptors is given up once, and only what is really ours is closed."""

from __future__ import annotations

import errno
import os
from unittest.mock import Mock

import pytest
import redis

from jobqueue.workers.shared import retry
from jobqueue.workers.shared.retry import OWN_FAULTS, CutOff, retry_request
from jobqueue.workers.shared.spare_descriptors import PIPES, SpareDescriptors


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd" if os.path.exists("/proc/self/fd") else "/dev/fd"))


def too_many_files() -> redis.ConnectionError:
    error = redis.ConnectionError("Error 24 connecting: Too many open files.")
    error.__cause__ = OSError(errno.EMFILE, "Too many open files")
    return error


def test_the_reserve_is_closed_once() -> None:
    before, used = open_files(), Mock()
    spare = SpareDescriptors()
    spare.keep(used)
    assert len(open_files() - before) == 2 * PIPES
    assert spare.release()
    assert open_files() <= before
    assert not spare.release()
    used.assert_called_once_with()


def test_numbers_that_a_job_has_taken_over_are_left_alone() -> None:
    spare = SpareDescriptors()
    spare.keep(Mock())
    kept = [fd for fd, _ in spare._kept]
    for fd in kept:
        os.close(fd)
    its = [os.open(os.devnull, os.O_RDONLY) for _ in kept]
    assert set(its) == set(kept)
    assert not spare.release()
    for fd in its:
        os.close(fd)  # raises if it was closed


def test_a_request_is_tried_again_with_the_reserve_before_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    spare = SpareDescriptors()
    spare.keep(Mock())
    monkeypatch.setattr(retry, "spare_descriptors", spare)
    monkeypatch.setattr(retry.time, "sleep", lambda _: None)
    request = Mock(side_effect=[*(too_many_files() for _ in range(OWN_FAULTS)), "done"])
    assert retry_request(request, "a request") == "done"
    with pytest.raises(CutOff, match="Too many open files"):
        retry_request(Mock(side_effect=[too_many_files() for _ in range(OWN_FAULTS)]), "a request")


def test_a_store_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda _: None)
    request = Mock(side_effect=[*(redis.ConnectionError("refused") for _ in range(50)), "done"])
    assert retry_request(request, "a request") == "done"
