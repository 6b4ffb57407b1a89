from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import fakeredis
import pytest
from rq import Callback, Repeat, Retry
from rq import Queue as RqQueue
from rq.job import Job as RqJob
from rq.rate_limit import RateLimit

from jobqueue.cli import LazyGroup
from jobqueue.cli.numbers import Number
from jobqueue.errors import BadValue, UsageError
from jobqueue.executor.executor import JobExecutor
from jobqueue.producing.cronfile import load
from jobqueue.producing.queue import Queue
from jobqueue.protocol import bounds, keys
from jobqueue.store.connection import redis
from jobqueue.tasks import square

LONGEST = bounds.LONGEST
NO_NUMBERS = [
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    "soon",
    "",
    "nan",
    "inf",
    "1e999",
    b"5",
    [5],
    {},
    Decimal("NaN"),
    1j,
]
OUTSIDE = [LONGEST + 1, 10**18, 1e18, sys.maxsize, 10**5000, -2, -(10**30), "-5", "9" * 5000]


@pytest.fixture
def client() -> redis.Redis:
    return fakeredis.FakeRedis(server=fakeredis.FakeServer())


@pytest.fixture
def queue(client: redis.Redis) -> Queue:
    return Queue("q", connection=client)


def ways(queue: Queue) -> list[Any]:
    """Return the ways in which a job's options can be given."""
    soon = datetime.now(UTC)
    return [
        lambda **options: queue.enqueue(square, 1, **options),
        lambda **options: queue.enqueue(square, 1, depends_on="other", **options),
        lambda **options: queue.enqueue(square, 1, unique=True, job_id="mine", **options),
        lambda **options: queue.enqueue_many(square, [1, 2], **options),
        lambda **options: next(queue.map(square, [1, 2], **options)),
        lambda **options: queue.enqueue_at(soon, square, 1, **options),
        lambda **options: queue.enqueue_in(timedelta(1), square, 1, **options),
        lambda **options: queue.schedule(square, 1, every=5, **options),
        lambda **options: queue.create_job(square, (1,), timeout=options.pop("job_timeout", None), **options),
        lambda **options: queue.enqueue_call(square, (1,), timeout=options.pop("job_timeout", None), **options),
        lambda **options: queue.enqueue_many(
            [queue.prepare_data(square, (1,), timeout=options.pop("job_timeout", None), **options)]
        ),
    ]


@pytest.mark.parametrize(
    "value", [*NO_NUMBERS, *OUTSIDE], ids=lambda value: f"{value!r:.20}" if value != 10**5000 else "huge"
)
@pytest.mark.parametrize("option", ["result_ttl", "failure_ttl", "ttl", "job_timeout"])
def test_a_number_out_of_bounds_is_refused_by_every_way_to_enqueue(
    client: redis.Redis, queue: Queue, option: str, value: Any
) -> None:
    for way in ways(queue):
        with pytest.raises(BadValue) as caught:
            way(**{option: value})
        message = str(caught.value)
        assert message.startswith(f"{option} is ")
        assert message.endswith(".")
        assert len(message) < 150
    assert client.keys() == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("ttl", 0),
        ("ttl", -1),
        ("job_timeout", 0),
        ("retry", True),
        ("retry", -1),
        ("retry", 1.5),
        ("retry", 10**10),
        ("retry", "3x"),
        ("retry", Retry(10**10)),
        ("retry", Retry(True)),
        ("retry", Retry(3, [1, 10**12])),
        ("retry", Retry(3, [math.nan])),
        ("retry", Retry(3, [math.inf])),
        ("retry", Retry(3, True)),
        ("repeat", Repeat(10**10)),
        ("repeat", Repeat(2, [10**12])),
        ("rate_limit", RateLimit("a", True)),
        ("rate_limit", RateLimit("a", 10**12)),
        ("on_success", Callback("os.getpid", timeout=10**12)),
        ("on_failure", Callback("os.getpid", timeout=-5)),
        ("on_stopped", Callback("os.getpid", timeout="9999999999h")),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_numbers_inside_option_objects_are_checked(client: redis.Redis, queue: Queue, option: str, value: Any) -> None:
    with pytest.raises(BadValue):
        queue.enqueue(square, 1, **{option: value})
    with pytest.raises(BadValue):
        queue.enqueue_at(datetime.now(UTC), square, 1, **{option: value})
    assert client.keys() == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("retry", "3"),
        ("retry", 2.5),
        ("retry", [3]),
        ("repeat", 3),
        ("repeat", True),
        ("repeat", [1, 2]),
        ("rate_limit", "x"),
        ("rate_limit", 3),
        ("on_success", 3),
        ("on_failure", ["os.getpid"]),
        ("on_stopped", object()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_option_of_another_type_is_refused_by_its_name(
    client: redis.Redis, queue: Queue, option: str, value: Any
) -> None:
    for way in ways(queue)[: 2 if option == "rate_limit" else None]:  # bulk and schedules take none at all
        with pytest.raises(BadValue) as caught:
            way(**{option: value})
        message = str(caught.value)
        assert message.startswith(f"{option} is ")
        assert "\n" not in message
    assert client.keys() == []


@pytest.mark.filterwarnings("ignore:Passing a string or function:DeprecationWarning")
@pytest.mark.parametrize("option", ["on_success", "on_failure", "on_stopped"])
def test_a_callback_may_be_given_by_name_as_in_rq(client: redis.Redis, option: str) -> None:
    ours, rqs = Queue("q", connection=client), RqQueue("q", connection=client)
    for given in ("os.getpid", "5", len, "", None):
        fields = [queue.enqueue("os.getpid", **{option: given}).to_dict() for queue in (ours, rqs)]
        name = f"{option.removeprefix('on_')}_callback_name"
        assert fields[0].get(name, "") == fields[1][name]


@pytest.mark.parametrize("value", [0, False, "", None])
def test_an_option_that_is_false_counts_as_not_given(queue: Queue, value: Any) -> None:
    """An option that is false in Python counts as not given, as in RQ."""
    for option in bounds.OBJECTS:
        for job in (queue.enqueue(square, 1, **{option: value}), queue.create_job(square, (1,), **{option: value})):
            assert not job.to_dict().get("retries_left")
        queue.enqueue_at(datetime.now(UTC), square, 1, **{option: value})


@pytest.mark.parametrize("every", [*NO_NUMBERS, *OUTSIDE, 0.01, 3e11], ids=lambda value: f"{type(value).__name__}")
def test_an_interval_out_of_bounds_is_refused(client: redis.Redis, queue: Queue, every: Any) -> None:
    with pytest.raises(UsageError):
        queue.schedule(square, 2, every=every)
    assert client.keys() == []


@pytest.mark.parametrize(
    "when",
    [datetime.max, datetime.min, datetime(1960, 1, 1), datetime(2300, 1, 1, tzinfo=UTC), 5, math.nan, "tomorrow", None],
    ids=str,
)
def test_a_time_out_of_bounds_is_refused(client: redis.Redis, queue: Queue, when: Any) -> None:
    with pytest.raises(BadValue):
        queue.enqueue_at(when, square, 2)
    if when is not None:
        with pytest.raises(BadValue):
            queue.schedule(square, 2, every=5, first=when)
    assert client.keys() == []


@pytest.mark.parametrize("span", [5, math.nan, "5m", timedelta.max, timedelta.min, None, True], ids=str)
def test_a_delay_out_of_bounds_is_refused(client: redis.Redis, queue: Queue, span: Any) -> None:
    with pytest.raises(BadValue):
        queue.enqueue_in(span, square, 2)
    assert client.keys() == []


@pytest.mark.parametrize("timeout", [*NO_NUMBERS, 1e18], ids=lambda value: f"{value!r:.20}")
def test_a_timeout_for_results_out_of_bounds_is_refused(client: redis.Redis, queue: Queue, timeout: Any) -> None:
    job, batch = queue.enqueue(square, 1), queue.enqueue_many(square, [1])
    before = sorted(client.keys())
    with pytest.raises(BadValue):
        job.result(timeout=timeout)
    with pytest.raises(BadValue):
        batch.results(timeout=timeout)
    with pytest.raises(BadValue):
        queue.map(square, [1], timeout=timeout)
    with JobExecutor(queue="q", url="redis://127.0.0.1:1") as executor, pytest.raises(BadValue):
        executor.map(square, [1], timeout=timeout)
    assert sorted(client.keys()) == before


@pytest.mark.parametrize("value", [*NO_NUMBERS, *OUTSIDE], ids=lambda value: f"{type(value).__name__}")
@pytest.mark.parametrize("option", ["job_timeout", "result_ttl", "workers"])
def test_options_of_executor_and_queue_out_of_bounds_are_refused(client: redis.Redis, option: str, value: Any) -> None:
    with pytest.raises(BadValue):
        JobExecutor("thread", **{option: value})
    if value and option == "job_timeout":
        with pytest.raises(BadValue):
            Queue("q", connection=client, default_timeout=value)


def test_options_of_a_job_made_with_job_create_are_checked(client: redis.Redis, queue: Queue) -> None:
    for options in ({"ttl": 10**18}, {"timeout": 10**12}, {"result_ttl": -7}, {"failure_ttl": -2}):
        job = RqJob.create("jobqueue.tasks.square", (1,), connection=client, serializer=queue.serializer, **options)
        with pytest.raises(BadValue):
            queue.enqueue_job(job)
        with pytest.raises(BadValue):
            queue.schedule_job(job, datetime.now(UTC))
    assert client.keys() == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0.5, 1),
        (1.2, 2),
        ("1h", 3600),
        ("2D", 172_800),
        (Fraction(3, 2), 2),
        (Decimal(7), 7),
        (LONGEST, LONGEST),
        ("90", 90),
    ],
    ids=str,
)
def test_values_within_bounds_are_accepted(client: redis.Redis, queue: Queue, value: Any, seconds: int) -> None:
    job = queue.enqueue(square, 1, result_ttl=value, failure_ttl=value, ttl=value, job_timeout=value)
    names = ("result_ttl", "failure_ttl", "ttl", "timeout")
    assert client.hmget(keys.job(job.id), *names) == [b"%d" % seconds] * 4
    endless = queue.enqueue(square, 1, result_ttl=-1, failure_ttl=-1, job_timeout=-1)
    assert client.hmget(keys.job(endless.id), *names) == [b"-1", b"-1", None, b"-1"]


@pytest.mark.parametrize(
    "entry",
    [
        "interval=True",
        "interval=3e11",
        "interval=float('nan')",
        "interval=5, result_ttl=10**18",
        "interval=5, ttl=True",
    ],
)
def test_numbers_in_cron_files_are_checked(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "cron_config.py"
    path.write_text(
        f"from rq import cron\nfrom jobqueue.tasks import square\ncron.register(square, 'q', args=(1,), {entry})\n"
    )
    with pytest.raises(UsageError):
        load(str(path), ["json"])


# -- the command line ----------------------------------------------------------------------------------------------


def options_of(command: click.Command, path: str = "jobq") -> Iterator[tuple[str, click.Parameter]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from options_of(found, f"{path} {name}")
    for param in command.params:
        yield f"{path} {param.name}", param


EVERY_OPTION = dict(options_of(LazyGroup()))
NUMBERS = {name: param.type for name, param in EVERY_OPTION.items() if isinstance(param.type, Number)}


def test_no_command_line_option_is_a_plain_float() -> None:
    assert len(NUMBERS) > 15
    unbounded = (click.types.FloatParamType, click.FloatRange)  # these take "nan" for a number
    no_end = [
        name for name, param in EVERY_OPTION.items() if isinstance(param.type, click.IntRange) and not param.type.max
    ]
    assert no_end == []
    assert [name for name, param in EVERY_OPTION.items() if isinstance(param.type, unbounded)] == []


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e18", "1e999", "-5", "", "x", "True", "9" * 30])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_no_command_line_option_accepts(name: str, text: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        NUMBERS[name].convert(text, None, None)
    assert "give " in str(caught.value)
