"""Accounting without a worker: what is measured, what CYCLE adds up, what is read again."""

from __future__ import annotations

import hashlib
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from helpers import eventually

from jobqueue.insight.profile import Profile
from jobqueue.insight.usage import BUCKETS, OTHERS, Record, bucket, quantile, read_usage, reset_usage
from jobqueue.protocol import keys
from jobqueue.protocol.cycle import Spent
from jobqueue.protocol.protocol import Protocol
from jobqueue.workers.running import procfs
from jobqueue.workers.running import task_meter as measuring
from jobqueue.workers.running.procfs import MemoryMeter, queued_for_a_core, waits_outside
from jobqueue.workers.running.task_meter import BRIEFS, SHORTS, Meter, Usage

OWNER = "w:0.1"
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@pytest.fixture
def client() -> fakeredis.FakeRedis:
    client = fakeredis.FakeRedis()
    client.sadd(keys.OWNERS, OWNER)
    return client


def write(client: fakeredis.FakeRedis, *spent: Spent) -> str:
    return Protocol(client).cycle(OWNER, "w", ["default"], [], 1, 1, spent).state


def spent(task: str = "t", slots: int = 1, peak_kb: int | None = None, **sums: int) -> Spent:
    given = {"runs": 1, **sums}
    return Spent(task, slots, peak_kb, tuple(value for pair in given.items() for value in pair))


def only(client: fakeredis.FakeRedis, width: int = 1) -> Record:
    (usage,) = read_usage(client)
    return next(record for record in usage.records if record.width == width)


# -- the record ------------------------------------------------------------------------------------------------------


def test_the_records_of_cycles_add_up(client: fakeredis.FakeRedis) -> None:
    write(client, spent(runs=3, errors=1, wall_us=3_000_000, cpu_runs=1, cpu_us=500_000, cpu_wall_us=1_000_000, b40=3))
    write(client, spent(runs=1, wall_us=1_000_000, cpu_runs=1, cpu_us=500_000, cpu_wall_us=1_000_000, b38=1))
    record = only(client)
    assert (record.runs, record.errors, record.wall_s, record.cpu_s) == (4, 1, 4.0, 2.0)  # half of the time was CPU
    assert sum(record.histogram) == 4
    assert record.first <= record.last
    assert (record.memory_growth_mb, record.memory_peak_mb, record.gil_wait) == (None, None, None)


def test_records_are_kept_per_width(client: fakeredis.FakeRedis) -> None:
    write(client, spent(slots=1, runs=5), spent(slots=16, runs=7), spent("other", runs=1))
    first, second = read_usage(client)
    assert (first.task, second.task) == ("other", "t")
    assert [(r.mode, r.width, r.runs) for r in second.records] == [("process", 1, 5), ("thread", 16, 7)]


def test_the_peak_is_the_greatest_and_the_growth_is_typical(client: fakeredis.FakeRedis) -> None:
    write(client, spent(peak_kb=2048, measured=10, grew=1, growth_kb=10240))
    write(client, spent(peak_kb=1024))
    assert (only(client).memory_peak_mb, only(client).memory_growth_mb) == (2.0, 0.0)  # one of the runs filled a cache
    write(client, spent(peak_kb=4096, measured=10, grew=10, growth_kb=10240))
    assert (only(client).memory_peak_mb, only(client).memory_growth_mb) == (4.0, 1.0)


@pytest.mark.parametrize(
    ("looks", "waiting", "others", "share"),
    [
        (100, 0, 900, 0.9),  # sixteen computing threads: it waited for the others
        (100, 90, 900, 0.0),  # it waited for a socket all the time, whatever the others did
        (100, 60, 900, 0.3),
        (100, 0, 0, 0.0),  # a lock, not the GIL: no thread computed
        (100, 0, 400, 0.6),  # also a lock
        (0, 0, 900, 0.9),  # no sample was taken; the core was busy
        (0, 0, 500, 0.0),  # no sample was taken; the core was idle
    ],
)
def test_the_share_of_waiting_for_the_gil(
    client: fakeredis.FakeRedis, looks: int, waiting: int, others: int, share: float
) -> None:
    write(client, spent(slots=16, wall_us=1000, cpu_runs=1, cpu_us=100, cpu_wall_us=1000, others_us=others,
                        looks=looks, waiting=waiting))  # fmt: skip
    assert only(client, 16).gil_wait == pytest.approx(share)


def test_the_share_of_waiting_for_a_lock(client: fakeredis.FakeRedis) -> None:
    """The run waited neither for a socket nor for computing threads: 900 us, of which 300 were for the GIL."""
    write(client, spent(slots=16, wall_us=1000, cpu_runs=1, cpu_us=100, cpu_wall_us=1000, others_us=200,
                        looks=10, waiting=0, company=150))  # fmt: skip
    found = only(client, 16)
    assert (found.gil_wait, found.lock_wait) == (pytest.approx(0.3), pytest.approx(0.6))
    assert (found.company, found.held) == (15, None)
    write(client, spent(task="b", slots=16, wall_us=1000, cpu_runs=1, cpu_us=100, cpu_wall_us=1000, others_us=200))
    assert {usage.task: usage.records[0].lock_wait for usage in read_usage(client)}["b"] is None, "nobody looked"


def test_the_share_of_time_in_which_a_lone_job_keeps_the_gil(client: fakeredis.FakeRedis) -> None:
    write(client, spent(slots=1, wall_us=1000, cpu_runs=1, cpu_us=10, cpu_wall_us=1000, held_us=800))
    assert only(client, 1).held == pytest.approx(0.8)


def test_one_long_sleep_is_not_waiting_for_the_gil(client: fakeredis.FakeRedis) -> None:
    """A sleep is told by its context switches, although the child watchdog waits for the GIL too and then finds
    sleepers awake."""
    write(client, spent(slots=16, wall_us=1000, cpu_runs=1, cpu_us=10, cpu_wall_us=1000, others_us=990,
                        looks=10, waiting=0, turns_us=300))  # fmt: skip
    assert only(client, 16).gil_wait == pytest.approx(0.3)


def test_user_made_names_do_not_fill_the_store(client: fakeredis.FakeRedis) -> None:
    for n in range(510):
        write(client, spent(f"t{n}"))
    write(client, spent("t3"))
    found = {usage.task: usage.records[0].runs for usage in read_usage(client)}
    assert len(found) == 501
    assert found[OTHERS] == 10
    assert found["t3"] == 2
    assert client.scard(keys.USAGE) == 501


@pytest.mark.parametrize("key", [keys.USAGE, keys.usage("t")])
@pytest.mark.parametrize("kind", ["string", "list", "hash of words"])
def test_invalid_entries_do_not_stop_a_cycle(client: fakeredis.FakeRedis, key: str, kind: str) -> None:
    if kind == "string":
        client.set(key, "mine")
    elif kind == "list":
        client.rpush(key, "mine")
    else:
        client.hset(key, mapping={"1:runs": "many", "1:first": "long ago", "1:x": "y", "words": "z"})
    Protocol(client).enqueue("default", [("a", {"status": "queued", "data": "[]"})])
    assert write(client, spent("t"), spent("u")) == "claimed"
    read_usage(client)
    write(client, spent("t"))
    if key != keys.USAGE:
        assert {usage.task for usage in read_usage(client)} >= {"u"}


def test_a_fenced_owner_records_nothing(client: fakeredis.FakeRedis) -> None:
    client.srem(keys.OWNERS, OWNER)
    assert write(client, spent()) == "fenced"
    assert read_usage(client) == []


def test_reset_deletes_the_records(client: fakeredis.FakeRedis) -> None:
    write(client, spent("a"), spent("b"), spent("c"))
    assert reset_usage(client, ["a", "never"]) == 1
    assert [usage.task for usage in read_usage(client)] == ["b", "c"]
    assert reset_usage(client) == 2
    assert client.keys("*usage*") == []
    assert reset_usage(client) == 0


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-6, 3e-5, 0.001, 0.05, 1.0, 600.0, 1e9])
def test_each_bucket_holds_its_range_of_times(seconds: float) -> None:
    number = bucket(seconds)
    assert 0 <= number < BUCKETS
    if 1e-6 <= seconds < 3000:
        assert 2 ** (number / 2) <= seconds * 1e6 * 1.0001
        assert seconds * 1e6 <= 2 ** ((number + 1) / 2)


def test_quantiles_are_within_a_fifth() -> None:
    times = [0.001 * n for n in range(1, 1001)]
    histogram = [0] * BUCKETS
    for seconds in times:
        histogram[bucket(seconds)] += 1
    assert quantile(histogram, 0.5) == pytest.approx(0.5, rel=0.2)
    assert quantile(histogram, 0.95) == pytest.approx(0.95, rel=0.2)
    assert quantile([0] * BUCKETS, 0.5) == 0.0


# -- the profile -----------------------------------------------------------------------------------------------------


def test_runs_alone_in_a_process_count_more_than_runs_among_threads(client: fakeredis.FakeRedis) -> None:
    alone = {"wall_us": 1_000_000, "cpu_us": 900_000, "cpu_wall_us": 1_000_000, "cpu_runs": 20}
    write(client, spent(slots=16, runs=900, wall_us=90_000_000), spent(runs=20, **alone))
    profile = Profile.of(read_usage(client)[0])
    assert (profile.runs, profile.wall_s_mean, profile.cpu_s_mean) == (20, 0.05, 0.045)


def test_many_runs_among_threads_count_more_than_two_alone(client: fakeredis.FakeRedis) -> None:
    write(client, spent(slots=16, runs=90, wall_us=9_000_000), spent(slots=8, runs=20, wall_us=9), spent(runs=2))
    profile = Profile.of(read_usage(client)[0])
    assert (profile.runs, profile.wall_s_mean) == (90, 0.1)


# -- measuring -------------------------------------------------------------------------------------------------------


def meter_of(usage: Usage) -> Meter:
    meter = usage.meter()
    assert meter is not None
    meter.bind()
    return meter


def sums(entry: Spent) -> dict[str, Any]:
    return dict(zip(entry.sums[::2], entry.sums[1::2], strict=True))


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        hashlib.sha1(b"x")


def measured(
    work: Callable[[], object], runs: int = 1, slots: int = 1, wall: float = 0.05
) -> tuple[Spent, dict[str, Any]]:
    usage = Usage(slots)
    meter = meter_of(usage)
    meter._seen.add("t")  # this is not its first run
    for _ in range(runs):
        meter.begin()
        work()
        meter.end("t", wall, False)
    (entry,) = usage.take()
    assert not usage.pending
    return entry, sums(entry)


def test_runs_add_up_per_task() -> None:
    usage = Usage(1)
    meter = meter_of(usage)
    for task, failed in (("a", False), ("b", True), ("a", True)):
        meter.begin()
        meter.end(task, 0.001, failed)
    found = {entry.task: sums(entry) for entry in usage.take()}
    assert (found["a"]["runs"], found["a"]["errors"], found["a"]["wall_us"]) == (2, 1, 2000)
    assert (found["b"]["runs"], found["b"]["errors"]) == (1, 1)
    assert usage.take() == []


def test_the_time_that_jobs_waited_is_recorded_with_their_runs(client: fakeredis.FakeRedis) -> None:
    """Of short runs as of measured ones, of failed ones too; before it was enqueued, by another clock, counts as 0."""
    usage = Usage(1)
    meter = meter_of(usage)
    for failed, waited in ((False, 3.0), (False, 0.0015), (True, 3.0), (False, -5.0), (False, None)):
        meter.begin()
        meter.end("t", 0.00001, failed, waited)
    write(client, *usage.take())
    found = only(client)
    assert (found.runs, found.wait_s) == (5, pytest.approx(6.0015))
    assert {k: n for k, n in enumerate(found.waits) if n} == {0: 1, 10: 1, 21: 2}


def test_a_run_that_was_interrupted_is_not_counted() -> None:
    usage = Usage(1)
    meter = meter_of(usage)
    meter.begin()
    meter.begin()
    meter.end("t", 0.001, False)
    assert sums(usage.take()[0])["runs"] == 1


def test_first_runs_are_recorded_apart_as_they_import() -> None:
    usage = Usage(1)
    meter = meter_of(usage)
    for seconds in (0.05, 0.0):
        meter.begin()
        burn(seconds)
        meter.end("t", 0.1, False)
    found = sums(usage.take()[0])
    assert found["runs"] == 2
    assert found["first_cpu_us"] >= 50_000
    assert found["cpu_us"] < 25_000
    assert found["cpu_runs"] == 1


def test_first_runs_count_where_there_is_nothing_else(client: fakeredis.FakeRedis) -> None:
    write(client, spent(runs=2, wall_us=2_000_000, first_cpu_us=500_000, first_cpu_wall_us=1_000_000))
    assert only(client).cpu_s == 1.0
    write(client, spent(runs=2, wall_us=2_000_000, cpu_us=10_000, cpu_wall_us=1_000_000))
    assert only(client).cpu_s == pytest.approx(0.04)


def test_waiting_for_a_core_is_recorded_apart(client: fakeredis.FakeRedis) -> None:
    half = {"cpu_us": 500, "cpu_wall_us": 1000, "queued_us": 400, "queued_wall_us": 1000}
    write(client, spent(runs=20, wall_us=20_000_000, **half))
    assert only(client).core_wait == pytest.approx(0.4)
    profile = Profile.of(read_usage(client)[0])
    assert profile.cpu_share == pytest.approx(0.5 / 0.6)


@linux
def test_the_time_in_the_run_queue_is_measured() -> None:
    """With more threads than cores, each in its own process, some have to wait."""
    busy = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
    others = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        before = queued_for_a_core(threading.get_native_id())
        assert before is not None

        def queued() -> bool:
            burn(0.02)
            now = queued_for_a_core(threading.get_native_id())
            return now is not None and now > before + 0.01

        eventually(queued)
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_a_name_that_cannot_be_sent_is_escaped(client: fakeredis.FakeRedis) -> None:
    usage = Usage(1)
    meter = meter_of(usage)
    meter.begin()
    meter.end("m.\ud800" + 300 * "x", 0.1, False)
    write(client, *usage.take())
    assert read_usage(client)[0].task.startswith("m.\\ud800xxx")


def test_switched_off_nothing_is_measured() -> None:
    assert Usage(1, on=False).meter() is None
    assert not Usage(16, on=False).watches_gil


@pytest.mark.parametrize("slots", [1, 2])
def test_the_cpu_time_of_a_thread(slots: int) -> None:
    assert measured(lambda: burn(0.03), slots=slots)[1]["cpu_us"] >= 30_000


def test_the_cpu_time_of_a_subprocess_counts_where_its_job_is_known() -> None:
    code = "import time\nwhile time.process_time() < 0.1: pass"
    assert measured(lambda: subprocess.run([sys.executable, "-c", code], check=True))[1]["cpu_us"] >= 100_000


@linux
def test_context_switches_show_how_often_a_run_slept() -> None:
    def naps() -> None:
        for _ in range(20):
            time.sleep(0.0001)

    turn = round(measuring.TURN * 1e6)
    assert 20 * turn <= measured(naps, slots=2)[1]["turns_us"] <= 30 * turn
    assert measured(lambda: time.sleep(0.2), slots=2)[1]["turns_us"] <= 5 * turn


def test_short_runs_are_measured_now_and_then_long_ones_always() -> None:
    assert measured(lambda: None, runs=10 * SHORTS, wall=0.00001)[1]["cpu_runs"] == 15
    assert measured(lambda: None, runs=20, wall=0.01)[1]["cpu_runs"] == 20


def test_long_runs_among_short_ones_are_always_measured() -> None:
    usage = Usage(1)
    meter = meter_of(usage)
    for _ in range(10):
        for task, wall in (("short", 0.00001), ("long", 0.01)):
            meter.begin()
            meter.end(task, wall, False)
    found = {entry.task: sums(entry) for entry in usage.take()}
    assert found["long"]["cpu_runs"] >= 8
    assert found["long"]["measured"] >= 8 or sys.platform != "linux"


def test_short_runs_delayed_by_the_machine_do_not_have_all_runs_measured() -> None:
    """On a busy machine every fiftieth run seems long; measuring thirteen runs after each would cost 5 % and more."""
    usage = Usage(1)
    meter = meter_of(usage)
    began = time.monotonic()
    for number in range(20_000):
        meter.begin()
        meter.end("t", 0.00001 if number % 50 else 0.006, False)
    took = time.monotonic() - began
    found = sums(usage.take()[0])
    base = 20_000 / SHORTS + 6  # strides grow to SHORTS
    affordable = (measuring.MOST + measuring.BUDGET * took) / measuring.PLAIN
    assert found["cpu_runs"] <= base + affordable + 400


def test_a_stream_of_short_jobs_is_recorded_every_eighth_cycle() -> None:
    usage = Usage(1)
    meter = meter_of(usage)
    taken = []
    for _ in range(16):
        meter.begin()
        meter.end("t", 0.00001, False)
        taken.append([sums(entry)["runs"] for entry in usage.take(outcomes=16)])
    assert [runs for runs in taken if runs] == [[8], [8]]
    meter.begin()
    meter.end("t", 0.00001, False)
    assert [sums(entry)["runs"] for entry in usage.take(outcomes=2)] == [1]


def test_the_cpu_time_of_other_threads_is_measured() -> None:
    def beside() -> None:
        thread = threading.Thread(target=burn, args=(0.05,))
        thread.start()
        thread.join()

    found = measured(beside, slots=2)[1]
    assert found["others_us"] >= 45_000  # the clocks are read one after the other
    assert found["cpu_us"] < 25_000


@linux
def test_the_peak_of_a_run_is_not_inherited() -> None:
    """Each run has its own peak: the maximum since the process started would be 64 MB for the second task too."""
    usage = Usage(1)
    meter = meter_of(usage)
    meter.begin()
    meter.end("long", 1.0, False)
    for task, size in (("large", 4096), ("small", 4096), ("large", 64 << 20), ("small", 8 << 20)):
        meter.begin()
        touch(size)
        meter.end(task, 1.0, False)
    _, large, small = usage.take()
    assert large.peak_kb is not None
    assert small.peak_kb is not None
    assert large.peak_kb > 60 << 10
    assert 7 << 10 < small.peak_kb < 20 << 10


def touch(size: int) -> mmap.mmap:
    """Use memory of a separate mapping, so that freeing it returns it to the kernel at once."""
    block = mmap.mmap(-1, size)
    for at in range(0, size, 4096):
        block[at] = 1
    return block


@linux
def test_the_growth_of_memory_is_measured() -> None:
    kept = []
    entry, found = measured(lambda: kept.append(touch(8 << 20)), runs=3)
    assert found["measured"] == found["grew"] == 3
    assert found["growth_kb"] >= 3 * 7 << 10
    assert entry.peak_kb is not None


@linux
def test_the_memory_of_short_runs_is_measured_now_and_then() -> None:
    assert measured(lambda: None, runs=SHORTS * BRIEFS, wall=0.00001)[1]["measured"] == 2


def test_among_threads_no_memory_per_run_is_recorded() -> None:
    entry, found = measured(lambda: None, slots=2, runs=5)
    assert entry.peak_kb is None
    assert "measured" not in found


def test_a_system_without_proc_gives_no_memory_instead_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> int:
        raise FileNotFoundError

    for name in ("_rss_kb", "_peak_kb"):
        monkeypatch.setattr(procfs, name, missing)
    assert "measured" not in measured(lambda: None)[1]


@linux
def test_a_kernel_that_cannot_reset_the_peak_still_gives_the_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "_reset_peak", lambda: False)
    scale = MemoryMeter()
    scale.begin()
    weight = scale.end()
    assert weight is not None
    assert weight.peak is None


@linux
@pytest.mark.skipif(not Path("/proc/self/syscall").exists(), reason="this kernel does not say where threads are")
def test_a_read_counts_as_a_wait_outside_and_a_lock_does_not() -> None:
    source, sink = os.pipe()
    lock = threading.Lock()
    lock.acquire()
    found: dict[str, int] = {}

    def reader() -> None:
        found["reader"] = threading.get_native_id()
        os.read(source, 1)

    def locked() -> None:
        found["locked"] = threading.get_native_id()
        lock.acquire()

    threads = [threading.Thread(target=work) for work in (reader, locked)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(found) == 2)
        eventually(lambda: waits_outside(found["reader"]) is True)
        eventually(lambda: waits_outside(found["locked"]) is False)
        assert waits_outside(0) is None
    finally:
        os.write(sink, b"!")
        lock.release()
        for thread in threads:
            thread.join()
        os.close(source)
        os.close(sink)


def test_samples_count_for_the_task_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = Usage(2)
    meter = meter_of(usage)
    meter._seen |= {"a", "b"}
    answers = iter([True, False, None, True])
    monkeypatch.setattr(measuring, "waits_outside", lambda thread: next(answers))
    meter.begin()
    for _ in range(3):
        usage.look([meter])
    meter.end("a", 0.1, False)
    meter.begin()
    usage.look([meter])
    meter.end("b", 0.1, False)
    found = {entry.task: sums(entry) for entry in usage.take()}
    assert [(found[task]["looks"], found[task]["waiting"]) for task in "ab"] == [(2, 1), (1, 1)]


def test_neighbours_and_lateness_are_recorded_per_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "waits_outside", lambda thread: True)
    crowd = Usage(2)
    meters = [meter_of(crowd), meter_of(crowd)]
    for meter in meters:
        meter._seen.add("a")
        meter.begin()
    crowd.look(meters)
    crowd.look(meters[:1])
    for meter in meters:
        meter.end("a", 0.1, False)
    (entry,) = crowd.take()
    assert (sums(entry)["looks"], sums(entry)["company"]) == (3, 2)
    alone = Usage(1)
    meter = meter_of(alone)
    meter._seen.add("a")
    for seconds in (0.5, 0.0):
        meter.begin()
        alone.late([meter], seconds)
        meter.end("a", 1.0, False)
    (entry,) = alone.take()
    assert sums(entry)["held_us"] == 500_000
    assert (alone.watches_lateness, crowd.watches_lateness, Usage(1, on=False).watches_lateness) == (True, False, False)


def test_a_gil_that_a_job_turns_on_is_watched_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    usage = Usage(16)
    assert not usage.watches_gil
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True)
    assert usage.watches_gil
    assert not Usage(1).watches_gil
