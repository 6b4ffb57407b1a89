"""``jobq plugins``: list the plugins that a worker, or a producer, started here would use, and why."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from typing import TYPE_CHECKING

import click

from jobqueue.cli.options import json_option
from jobqueue.cli.render import json_line
from jobqueue.cli.tables import table, wide_option
from jobqueue.errors import UsageError

if TYPE_CHECKING:
    from jobqueue.plugins.finding import Found


@click.command()
@click.option("-I", "--import", "modules", multiple=True, metavar="MODULE",
              help="Import this module first, as the worker does: it may set up a library.")  # fmt: skip
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE:CLASS", help="As of jobq worker.")
@click.option("--no-plugin", "no_plugins", multiple=True, metavar="NAME", help="As of jobq worker.")
@wide_option
@json_option
def plugins(
    modules: tuple[str, ...], plugins: tuple[str, ...], no_plugins: tuple[str, ...], wide: bool, as_json: bool
) -> None:
    """List the plugins that a worker with these flags would use, who named each, and why the others are inactive."""
    from jobqueue.plugins.finding import PluginChoice, find_plugins

    sys.path.insert(0, os.getcwd())
    try:
        for name in modules:
            importlib.import_module(name.partition(":")[0])
        found = find_plugins(PluginChoice(plugins, no_plugins))
    except UsageError:
        raise
    except Exception as e:
        raise UsageError(f"{type(e).__name__}: {e}") from e
    if as_json:
        for it in found:
            print(json_line(_as_dict(it)))
        return
    rows = [[it.name, "no" if it.why_inactive else "yes", it.source, _why(it)] for it in found]
    table(["plugin", "active", "named by", "methods, or why it is inactive"], rows, wide=wide)


def _as_dict(found: Found) -> dict[str, object]:
    known = {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "plugin"}
    return {**known, "active": not found.why_inactive, "methods": list(found.methods)}


def _why(found: Found) -> str:
    return found.why_inactive or ", ".join(found.methods) or "it overrides no method"
