"""The shared page has only complete records and true claims after its child was killed at any instruction."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from helpers import ROOT, eventually

from jobqueue.protocol.outcomes import RETURNED, JobOutcome
from jobqueue.workers.shared.journal import BUFFERED, HALF, OUT_OF_WORK, UNSETTLED, Running, SharedPage, make_file


@pytest.fixture
def pages() -> Iterator[int]:
    fd = make_file(children=3, slots=2)
    yield fd
    os.close(fd)


@pytest.fixture
def page(pages: int) -> SharedPage:
    return SharedPage(pages, 1, 2)


def outcome(claim: int, size: int = 10) -> JobOutcome:
    payload = bytes([claim % 251]) * size
    return JobOutcome(f"id{claim}", claim, "default", RETURNED, 500, payload, "start", "end", claim + 0.25, claim + 0.5)


def test_two_maps_of_one_file_see_the_same(pages: int, page: SharedPage) -> None:
    page.bind(1, 0x7F00)
    page.begin(1, 7, 12.5, 180.0)
    page.set(OUT_OF_WORK, 1)
    page.journal.append(outcome(3))
    other = SharedPage(pages, 1, 2)
    assert other.running() == [Running(1, 7, 12.5, 180.0, 0x7F00, 12.5)]
    assert other.get(OUT_OF_WORK) == 1
    assert list(other.journal.read()) == [outcome(3)]
    page.end(1)
    assert other.running() == []


def test_pages_do_not_overlap(pages: int) -> None:
    pages = [SharedPage(pages, n, 2) for n in range(3)]
    for n, page in enumerate(pages):
        for slot in range(2):
            page.begin(slot, 10 * n + slot + 1, 0.0, 0.0)
        while page.journal.append(outcome(n, 1000)):
            pass
    pages[1].wipe()
    assert pages[1].running() == []
    assert list(pages[1].journal.read()) == []
    for n in (0, 2):
        assert [r.claim for r in pages[n].running()] == [10 * n + 1, 10 * n + 2]
        assert {o.claim for o in pages[n].journal.read()} == {n}


def test_when_a_child_counts_as_at_rest(page: SharedPage) -> None:
    assert not page.at_rest
    page.set(OUT_OF_WORK, 1)
    assert page.at_rest
    for word in (BUFFERED, UNSETTLED):
        page.set(word, 1)
        assert not page.at_rest
        page.set(word, 0)
    page.begin(0, 1, 0.0, 0.0)
    assert not page.at_rest


def test_a_record_that_does_not_fit_is_refused_whole(page: SharedPage) -> None:
    assert not page.journal.append(outcome(1, HALF))
    assert list(page.journal.read()) == []
    assert page.journal.append(outcome(2, HALF - 200))
    assert not page.journal.append(outcome(3, 200))
    assert [o.claim for o in page.journal.read()] == [2]


def test_records_in_flight_stay_until_they_are_settled(page: SharedPage) -> None:
    journal = page.journal
    journal.append(outcome(1))
    journal.switch()
    journal.append(outcome(2))
    assert sorted(o.claim for o in journal.read()) == [1, 2]
    journal.sent_is_settled()
    assert [o.claim for o in journal.read()] == [2]
    journal.switch()
    journal.sent_is_settled()
    assert list(journal.read()) == []


def test_records_of_a_lost_request_are_kept_with_later_ones(page: SharedPage) -> None:
    journal = page.journal
    journal.append(outcome(1))
    journal.switch()
    journal.append(outcome(2))
    journal.sent_came_back()
    assert sorted(o.claim for o in journal.read()) == [1, 2]
    journal.switch()  # both go out again
    journal.append(outcome(3))
    journal.sent_is_settled()
    assert [o.claim for o in journal.read()] == [3]


def test_records_of_a_lost_request_that_do_not_fit_are_not_lost(page: SharedPage) -> None:
    """Two full halves do not fit into one: nothing is lost, but a record may stay longer than needed."""
    journal = page.journal
    assert journal.append(outcome(1, HALF - 1000))
    journal.switch()
    assert journal.append(outcome(2, HALF - 1000))
    journal.sent_came_back()
    assert sorted(o.claim for o in journal.read()) == [1, 2]


WRITER = """
import itertools, sys
from jobqueue.protocol.outcomes import JobOutcome, RETURNED
from jobqueue.workers.shared.journal import SharedPage

page = SharedPage(int(sys.argv[1]), 0, 1)
print("go", flush=True)
for claim in itertools.count(1):
    page.begin(0, claim, float(claim), 0.0)
    payload = bytes([claim % 251]) * (claim % 3000)
    done = JobOutcome(f"id{claim}", claim, "default", RETURNED, 500, payload, "s", "e", claim + 0.25, claim + 0.5)
    if not page.journal.append(done):
        page.journal.sent_is_settled()  # the half that was full before this one
        page.journal.switch()
        page.journal.append(done)
    page.end(0)
"""


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_writer_leaves_complete_records_only(seed: int) -> None:
    """After a kill at a random moment, every record is complete, and the last claim is running, recorded, or not
    started."""
    fd = make_file(1, 1)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", WRITER, str(fd)]
    with subprocess.Popen(argv, pass_fds=(fd,), stdout=subprocess.PIPE, env=env) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"go\n"
            page = SharedPage(fd, 0, 1)
            eventually(lambda: any(r.claim > 1 for r in page.running()))  # 1 is recorded; a live journal is not read
            time.sleep(random.Random(seed).uniform(0.0, 0.05))  # the random moment
        finally:
            writer.kill()
    records = list(page.journal.read())
    for record in records:
        assert record.payload == bytes([record.claim % 251]) * (record.claim % 3000)
        assert record.started == record.claim + 0.25
    claims = sorted(record.claim for record in records)
    assert claims == list(range(claims[0], claims[-1] + 1))
    running = [r.claim for r in page.running()]
    assert running in ([], [claims[-1]], [claims[-1] + 1])
    os.close(fd)


SPEAKER = """
import sys
from jobqueue.workers.shared.journal import SharedPage

page = SharedPage(int(sys.argv[1]), 1, 1)
for line in sys.stdin:
    print(page.speaks_for_tree(), flush=True)
"""


def test_one_process_speaks_for_its_tree_until_it_ends() -> None:
    fd = make_file(2, 1)
    page = SharedPage(fd, 0, 1)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", SPEAKER, str(fd)]
    with subprocess.Popen(
        argv, pass_fds=(fd,), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        try:
            print(file=other.stdin, flush=True)
            assert other.stdout.readline() == "True\n"
            assert not page.speaks_for_tree()
        finally:
            other.kill()
    assert page.speaks_for_tree()
    assert page.speaks_for_tree(), "it may ask again"
    os.close(fd)
    assert not page.speaks_for_tree(), "a job has closed the file"
