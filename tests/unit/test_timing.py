"""When a schedule is due: intervals, cron expressions, changes of the clocks, invalid values."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from rq.cron import CronJob

from jobqueue.schedules.timing import BadSchedule, Timing, local_zone


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set this process's time zone to Berlin's."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_an_interval_starts_at_once_and_keeps_its_grid() -> None:
    timing = Timing(every=10.0)
    assert timing.first(1003.0) == 1003.0
    assert timing.after(1003.0, 1003.2) == 1013.0
    assert timing.after(1003.0, 1013.0) == 1023.0


def test_missed_times_are_due_once() -> None:
    assert Timing(every=10.0).after(1000.0, 4605.0) == 4610.0
    hourly = Timing(cron="0 * * * *", tz="UTC")
    assert hourly.after(at("2026-01-01T00:00Z"), at("2026-01-01T05:30Z")) == at("2026-01-01T06:00Z")


def test_an_expression_is_in_its_zone() -> None:
    daily = Timing(cron="30 3 * * *", tz="America/New_York")
    assert daily.first(at("2026-01-10T00:00Z")) == at("2026-01-10T08:30Z")
    assert daily.first(at("2026-07-10T00:00Z")) == at("2026-07-10T07:30Z")


@pytest.mark.parametrize("expression", ["30 2 * * *", "*/20 * * * *", "0 0 * * 0", "15 3 29 3 *"])
@pytest.mark.parametrize("day", ["2026-03-28T20:00Z", "2026-10-24T20:00Z", "2026-10-25T01:10Z"])
def test_times_are_the_same_as_rqs(berlin: None, expression: str, day: str) -> None:
    """Times equal RQ's own in local time, over both changes of the clocks, with the zone by name and as local time."""
    job = CronJob("default", func_name="x", cron=expression)
    job.latest_enqueue_time = datetime.fromisoformat(day)
    by_name, local, now = Timing(cron=expression, tz=local_zone()), Timing(cron=expression), at(day)
    assert by_name.tz == "Europe/Berlin"
    for _ in range(40):
        job.latest_enqueue_time = job.get_next_enqueue_time()
        due, now = now, by_name.after(now, now)
        assert now == job.latest_enqueue_time.timestamp() == local.after(due, due)


def test_a_local_time_that_occurs_twice_is_due_once(berlin: None) -> None:
    daily = Timing(cron="30 2 * * *", tz="Europe/Berlin")
    first = daily.after(0.0, at("2026-10-25T00:00Z"))
    assert datetime.fromtimestamp(first, UTC) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert daily.after(first, first) == at("2026-10-26T01:30Z")


TWO_WEEKS = 14 * 86_400.0


@pytest.mark.parametrize(
    ("expression", "zone", "pause"),
    [
        ("*/15 * * * *", "Europe/Berlin", ("2026-10-25T00:45Z", "2026-10-25T02:00Z")),
        ("0 * * * *", "Europe/Berlin", ("2026-10-25T00:00Z", "2026-10-25T02:00Z")),
        ("* * * * *", "Europe/London", ("2026-10-25T00:59Z", "2026-10-25T02:00Z")),
        ("30 2 * * *", "Europe/Berlin", None),
        ("*/20 9-17 * * *", "Europe/Berlin", None),
        ("*/15 * * * *", "UTC", None),
        ("*/15 * * * *", "America/New_York", None),  # a week later
    ],
)
def test_pauses_when_the_clocks_are_set_back(expression: str, zone: str, pause: tuple[str, str] | None) -> None:
    timing, now = Timing(cron=expression, tz=zone), at("2026-10-14T00:00Z")
    assert timing.pause(now, TWO_WEEKS) == (None if pause is None else tuple(map(at, pause)))
    assert timing.pause(at("2026-12-01T00:00Z"), TWO_WEEKS) is None
    if pause:
        assert timing.after(0.0, at(pause[0])) == at(pause[1]), "it says what it does"


@pytest.mark.parametrize(
    ("timing", "sentence"),
    [
        (Timing(), "needs either"),
        (Timing(1.0, "* * * * *"), "needs either"),
        (Timing(-1.0), "give seconds from"),
        (Timing(0.01), "give seconds from"),
        (Timing(float("nan")), "give seconds from"),
        (Timing(float("inf")), "give seconds from"),
        (Timing(cron="every monday"), "is not valid"),
        (Timing(cron="61 * * * *"), "is not valid"),
        (Timing(cron="H * * * *"), "is not valid"),
        (Timing(cron="0 0 30 2 *"), "is not valid"),
        (Timing(cron="* * * * *", tz="Mars/Olympus"), "no time zone"),
        (Timing(cron="* * * * *", tz="../../etc/passwd"), "no time zone"),
    ],
)
def test_invalid_timings_are_refused(timing: Timing, sentence: str) -> None:
    with pytest.raises(BadSchedule, match=sentence) as caught:
        timing.check()
    assert "\n" not in str(caught.value)
