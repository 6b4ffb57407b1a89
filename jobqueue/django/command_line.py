"""From the words behind `manage.py jobq` to a command of jobq: add what the settings say and the words do not."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from jobqueue.django.addresses import identity
from jobqueue.django.priorities import queue_of
from jobqueue.django.setting_up import PATH, keep_path
from jobqueue.django.settings import (
    BadSettings,
    all_queues,
    exception_handlers,
    format_written,
    queue_settings,
    served_modules,
)

UNTIL_STOPPED = ("worker", "cron")  # these get a process without Django: it runs no code of the project
_OF_DJANGO = ("--settings", "--pythonpath")  # manage.py has heard them already


def prepared(words: Sequence[str]) -> list[str]:
    """Return the arguments for `jobq`; set in the environment what the processes that it starts need. Raises
    BadSettings."""
    arguments = _without_djangos(words)
    keep_path()
    if arguments[:1] == ["worker"]:
        options = _parsed(arguments[1:])
        if options is not None:
            arguments = ["worker", *_of_worker(options), *arguments[1:]]
            _use_store(options.get("queues") or ["default"])
    else:
        _use_store([])
    return arguments


def run(words: Sequence[str], prog: str) -> None:
    """Run a command of jobq in this process, and exit with its code."""
    from jobqueue.cli import main

    before = dict(os.environ)
    try:
        main(prepared(words), prog_name=prog)
    finally:
        for name in (PATH, "JOBQ_URL"):
            os.environ.pop(name, None)
            os.environ.update({name: before[name]} if name in before else {})


def become(words: Sequence[str]) -> None:
    """Replace this process, in which the project's code is loaded, by a command of jobq."""
    from django.db import connections

    arguments = prepared(words)
    connections.close_all()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "jobqueue.cli", *arguments])


def _without_djangos(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skips = False
    for word in words:
        if skips or word.partition("=")[0] in _OF_DJANGO:
            skips = not skips and "=" not in word
        else:
            kept.append(word)
    return kept


def _parsed(words: Sequence[str]) -> dict[str, Any] | None:
    """Return what these arguments of `jobq worker` say; None where they are wrong, which the command itself says
    better."""
    from jobqueue.cli.worker import worker

    context = click.Context(worker, info_name="worker", resilient_parsing=True)
    try:
        values, _, _ = worker.make_parser(context).parse_args(list(words))
    except click.ClickException:
        return None
    given = (str, bool, list, tuple)  # click has an object of its own for what is not given
    return {name: value for name, value in values.items() if isinstance(value, given)}


def _of_worker(options: dict[str, Any]) -> list[str]:
    """Return the queues and flags of a worker that its command line does not give."""
    named = list(options.get("queues") or ["default"])
    words = _expanded(named)  # in front: of a queue that is named twice, the first place counts
    if not options.get("modules") and not options.get("allow_any"):
        words += [f"--import={name}" for name in served_modules()]
    if not options.get("accept") and not options.get("serializer"):
        words += _formats(named)
    if not options.get("exception_handlers"):
        words += [f"--exception-handler={name}" for name in exception_handlers()]
    return words


def _expanded(queues: Sequence[str]) -> list[str]:
    """Return the queues that a worker of these queues serves, in their order: with those of the levels, where a backend
    of django.tasks that is jobq's uses them."""
    known = all_queues()
    return [
        queue_of(name, level)
        for name in queues
        for level in sorted(_levels(name) if name in known else {0}, reverse=True)
    ]


def _levels(name: str) -> set[int]:
    try:
        from django.tasks import task_backends
    except ImportError:  # Django 5
        return {0}
    from jobqueue.django.backend import JobqBackend

    found = {0}
    for backend in task_backends.all():
        if isinstance(backend, JobqBackend) and (name in backend.queues or not backend.queues):
            found.update(backend.levels)
    return found


def _formats(queues: Sequence[str]) -> list[str]:
    """Return the flag that lets the worker read what the settings have producers write into these queues."""
    known = all_queues()
    written = {format_written(known[name].serializer) for name in map(_declared, queues) if name in known}
    if not written - {"json", "pickle"}:
        return ["--accept=json,pickle"] if "pickle" in written else []
    if len(written) > 1:
        raise BadSettings(f"The queues {', '.join(queues)} have different serializers: start a worker for each.")
    return [f"--serializer={written.pop()}"]


def _declared(name: str) -> str:
    """Return the queue of the settings that a queue belongs to, which may be that of a level of priorities."""
    return name if name in all_queues() else re.sub(r"[+-]\d+$", "", name)


def _use_store(queues: Sequence[str]) -> None:
    """Name the store of these queues, or of the first one, in the environment: not in the arguments, which all users
    of the machine can read."""
    known = all_queues()
    chosen = [queue_settings(_declared(name)) for name in queues] or [
        known.get("default") or next(iter(known.values()))
    ]
    if len({identity(said.url) for said in chosen}) > 1:
        raise BadSettings(f"The queues {', '.join(queues)} are in different stores: start a worker for each.")
    if (url := chosen[0].url) is not None:
        os.environ["JOBQ_URL"] = url
