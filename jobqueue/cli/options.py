"""What all commands share: ``--url``, ``--json``, how help is shown, and how the store is opened and named on
stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from jobqueue.errors import BadValue
from jobqueue.network.backoff import Backoff
from jobqueue.protocol.names import LONGEST, queue_name

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from jobqueue.store.open import Store

url_option = click.option(
    "--url",
    "-u",
    metavar="URL",
    help="The store: redis://, rediss://, unix:// or redis+sentinel://. "
    "Else JOBQ_URL, REDIS_URL, RQ_REDIS_URL; else the local store, which starts by itself.",
)


class WholeHelp(click.Group):
    """A group whose ``--help`` gives the first sentence of each command in full, over several lines if need be."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(10_000)) for name, command in commands if command])


class QueueName(click.ParamType[str]):
    """The name of a queue; refused before anything is done if no queue can have it."""

    name = "queue"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if str(value)[:1] in ("-", "="):  # -q --wait, -q=high
            self.fail(f"{value!r} begins with {value[0]!r}: is a queue's name missing before it?", param, ctx)
        try:
            return queue_name(value)
        except BadValue as e:
            self.fail(str(e), param, ctx)


class Id(click.ParamType[str]):
    """The id of a job or schedule that may exist. It is checked loosely, because an older one may have characters that
    a new one may not."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text.strip():
            self.fail("an id cannot be empty or blank.", param, ctx)
        if len(text) > LONGEST:
            self.fail(f"an id has {LONGEST} characters at most, and this one has {len(text):,}.", param, ctx)
        return text


def a_file(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete names of files (for shell_complete= of an option or argument)."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def only_one(_ctx: click.Context, param: click.Parameter, values: tuple[Any, ...]) -> Any:
    """Refuse a second value of an option with multiple=True, where click would silently take the last."""
    if len(values) > 1:
        raise click.BadParameter("give it once.", param=param)
    return values[0] if values else None


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@contextmanager
def opened(url: str | None, *, quiet: bool = False, wait: float = 0.0) -> Iterator[Store]:
    """Open the store, name it on stderr, and close it at the end.

    wait: seconds to wait for a store that does not answer yet. Raises StoreError or UsageError.
    """
    with _open(url, wait) as store:
        if not quiet:
            click.echo(store.describe(), err=True)
        yield store


def _open(url: str | None, wait: float) -> Store:
    from jobqueue.errors import StoreLoading, StoreUnreachable
    from jobqueue.store.open import open_store

    deadline, backoff = time.monotonic() + wait, Backoff(first=0.1)
    while True:
        try:
            return open_store(url)
        except (StoreUnreachable, StoreLoading) as e:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            if not backoff.failures:
                end = " Waiting" if str(e).endswith("?") else "; waiting"
                click.echo(f"{str(e).rstrip('.')}{end} for it, {wait:g} s at most", err=True)
            time.sleep(min(backoff.failed(), left))
