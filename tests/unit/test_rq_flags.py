"""Flags of ``rq worker`` given to ``jobq worker``: one line that says what to do instead."""

from __future__ import annotations

import click
import pytest
import rq.cli
from click.testing import CliRunner

from jobqueue.cli.rq_flags import INSTEAD, NOTHING_TO_DO, dotted_names, formats_to_read, refuses_rqs_flags
from jobqueue.cli.worker import worker
from jobqueue.errors import UsageError


@click.command()
@refuses_rqs_flags
def some_command() -> None:
    click.echo("ran")


@pytest.mark.parametrize("names", INSTEAD)
def test_flags_that_are_refused(names: tuple[str, ...]) -> None:
    for name in names:
        value = [] if "-d" in names else ["x"]
        result = CliRunner().invoke(some_command, [name, *value])
        assert isinstance(result.exception, UsageError)
        assert str(result.exception).startswith(f"{names[0]} is a flag of rq worker: ")
        assert "\n" not in str(result.exception)


@pytest.mark.parametrize("names", NOTHING_TO_DO)
def test_flags_that_are_not_needed(names: tuple[str, ...]) -> None:
    for name in names:
        result = CliRunner().invoke(some_command, [name])
        assert result.exit_code == 0
        assert result.stdout == "ran\n"
        assert "is not needed" in result.stderr


@pytest.mark.parametrize(
    ("accept", "serializer", "expected"),
    [
        (None, "", (("json",), "")),
        ("json,pickle", "", (("json", "pickle"), "")),
        (None, "json", (("json",), "")),
        (None, "rq.serializers.JSONSerializer", (("json",), "")),
        (None, "pickle", (("pickle",), "")),
        (None, "rq.serializers.DefaultSerializer", (("pickle",), "")),
        (None, "jobqueue.serializers.Auto", (("json", "pickle"), "")),
        (None, "shop.formats:Own", (("json",), "shop.formats.Own")),
    ],
)
def test_formats_that_follow_from_accept_and_serializer(
    accept: str | None, serializer: str, expected: tuple[tuple[str, ...], str]
) -> None:
    assert formats_to_read(accept, serializer) == expected


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-S", "shop"], "--serializer shop: give module:class"),
        (["-S", "shop.Own", "--accept", "json"], "--accept and --serializer both say"),
        (["-S", "shop.Own", "--cron", "cron.py"], "--cron and --serializer do not go together"),
        (["-j", "shop"], "--job-class shop: give module:class"),
        (["--queue-class", "a b.c"], "--queue-class a b.c: give module:class"),
        (["--accept", "yaml"], "--accept yaml: give json"),
    ],
)
def test_values_and_combinations_that_are_refused(flags: list[str], words: str) -> None:
    result = CliRunner().invoke(worker, flags)
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)


def test_every_flag_of_rq_worker_is_accepted_or_explained() -> None:
    of_rq = {name for option in rq.cli.main.commands["worker"].params if option.opts != ["queues"]
             for name in option.opts}  # fmt: skip
    assert {"--name", "-q", "--date-format"} <= of_rq
    taken = {name for option in worker.params for name in option.opts}
    assert of_rq - taken == set()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-n", "printer"], "'printer' is not a valid integer: it is the number of processes or threads. (A name"),
        (["--log-format", "%(message)s"], "--log-format takes a pattern in rq worker only; give text or json"),
    ],
)
def test_a_flag_that_has_another_meaning_in_rq(flags: list[str], words: str) -> None:
    result = CliRunner().invoke(worker, flags)
    assert result.exit_code != 0
    assert words in f"{result.exception}{result.stderr}"


def test_flags_of_rq_hide_none_of_ours() -> None:
    taken = [name for option in worker.params for name in option.opts + option.secondary_opts]
    assert len(taken) == len(set(taken))


def test_names_of_exception_handlers() -> None:
    def parse(*names: str) -> tuple[str, ...]:
        return dotted_names(click.Context(worker), worker.params[0], names)

    assert parse("shop.errors:report", "shop.errors.report") == ("shop.errors.report",) * 2
    for wrong in ("report", "shop/errors.py:report", "shop:", ""):
        with pytest.raises(UsageError, match="give module:function"):
            parse(wrong)
