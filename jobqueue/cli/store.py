"""``jobq store``: look at the local store, start it, stop it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from jobqueue.cli.options import WholeHelp, json_option, url_option
from jobqueue.errors import UsageError
from jobqueue.store import config
from jobqueue.words import count, duration

if TYPE_CHECKING:
    from jobqueue.store.local.status import StoreStatus
    from jobqueue.store.local.store import LocalStore


@click.group(cls=WholeHelp)
def store() -> None:
    """Look at the local store, start it, stop it."""


@store.command()
@url_option
@json_option
def status(url: str | None, as_json: bool) -> None:
    """Say which store is in use and how it is. Starts nothing."""
    found, source = config.resolve_url(url)
    if found is None:
        return _show(_local().status(), source, as_json)
    from jobqueue.store.local.status import server_status
    from jobqueue.store.open import open_store

    with open_store(found) as remote:
        _show(server_status(remote.address), source, as_json)


@store.command()
@url_option
@json_option
def start(url: str | None, as_json: bool) -> None:
    """Start the local store and leave it running until `jobq store stop`."""
    _refuse_a_url(url, "start")
    local = _local()
    local.ensure()
    local.release(keep=True)
    _show(local.status(), config.LOCAL, as_json)


@store.command()
@click.option("--force", is_flag=True, help="Also while other processes use it. Their jobs are kept.")
@url_option
@json_option
def stop(url: str | None, force: bool, as_json: bool) -> None:
    """Stop the local store. What it holds is there again at its next start."""
    _refuse_a_url(url, "stop")
    stopped = _local().stop(force=force)
    if as_json:
        click.echo(json.dumps({"stopped": stopped}))
    else:
        click.echo("stopped" if stopped else "the local store was not running")


def _local() -> LocalStore:
    from jobqueue.store.local.store import LocalStore

    return LocalStore(config.home())


def _refuse_a_url(url: str | None, verb: str) -> None:
    found, source = config.resolve_url(url)
    if found is not None:
        from jobqueue.store.connection import Address

        where = Address(url=found).describe()
        raise UsageError(f"the store in use is {where} (by {source}): it is not jobq's to {verb}")


def _show(status: StoreStatus, source: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(status) | {"source": source}))
        return
    for name, text in _lines(status, source):
        click.echo(f"{name:<11}{text}")


def _lines(s: StoreStatus, source: str) -> list[tuple[str, str]]:
    kept = ", until `jobq store stop`" if s.kept else ""
    lines = [("store", f"{s.url} ({source})" if s.url and not s.directory else "local")]
    lines.append(("state", f"running{kept}" if s.running else "not running"))
    if s.running:
        lines.append(("server", f"{s.server} {s.version}, pid {s.pid}, up {duration(s.uptime or 0)}"))
        lines.append(("memory", _megabytes(s.memory)))
        lines.append(("jobs", f"{s.waiting or 0:,} waiting in {count(s.queues or 0, 'queue')}"))
    if s.aof_size is not None:
        lines.append(("on disk", _megabytes(s.aof_size)))
    if s.directory:
        lines += [("directory", s.directory), ("socket", s.socket or "")]
        lines.append(("URL", s.url or ""))
    if s.users is not None and s.running:
        lines.append(("used by", ", ".join(f"process {pid}" for pid in s.users) or "nobody"))
    return lines


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:.2f} MB"
