"""Answer the flags of ``rq worker`` that ``jobq worker`` does not have with what to use instead; parse those that it
takes in RQ's form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from jobqueue.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

INSTEAD = {
    ("--worker-class", "-w"): "jobq worker is the worker; RQ's classes go with rq worker --worker-class …",
    ("--connection-class",): "name the store by --url (redis://, rediss://, unix://, redis+sentinel://)",
    ("--config", "-c"): "give the store by --url or JOBQ_URL, queues as arguments",
    ("--path", "-P"): "set PYTHONPATH; the current directory is searched anyway",
    ("--name",): "each worker names itself, so that no two are the same; jobq info shows the names",
    ("--pid",): "jobq worker stays in the foreground: let systemd or Docker look after it, and see --health-file",
    ("--max-idle-time",): "stop it from outside (SIGTERM), or let --burst end it when the queues are empty",
    ("--worker-ttl", "--job-monitoring-interval"): "jobq worker shows life every 3 s, whatever the jobs do",
    ("--disable-default-exception-handler", "-d"): "a failure is always recorded; "
    "--exception-handler is called before that",
    ("--logging-level", "--logging_level"): "-v logs every job; without it only what needs a look",
    ("--date-format",): "--log-format json has the time in seconds, for a format of your own",
}
NOTHING_TO_DO = {
    ("--with-scheduler", "-s"): "delayed jobs are enqueued anyway, unless --no-scheduler",
    ("--disable-job-desc-logging",): "jobs are logged only with -v",
    ("--quiet", "-q"): "jobs are logged only with -v",
}
_TAKES_NO_VALUE = {"--disable-default-exception-handler"}


def refuses_rqs_flags(command: F) -> F:
    """Add RQ's flags to a command, hidden: using one ends the command with a sentence, or prints that it is not
    needed."""
    for names, sentence in INSTEAD.items():
        is_flag = names[0] in _TAKES_NO_VALUE
        command = _hidden(names, is_flag, _refusal(names[0], sentence))(command)
    for names, sentence in NOTHING_TO_DO.items():
        command = _hidden(names, True, _remark(names[0], sentence))(command)
    return command


def _hidden(names: tuple[str, ...], is_flag: bool, callback: Callable[..., None]) -> Callable[[F], F]:
    return click.option(*names, is_flag=is_flag, hidden=True, expose_value=False, callback=callback)


def _refusal(name: str, sentence: str) -> Callable[..., None]:
    def refuse(_context: click.Context, _parameter: click.Parameter, value: object) -> None:
        if value:
            raise UsageError(f"{name} is a flag of rq worker: {sentence}")

    return refuse


def _remark(name: str, sentence: str) -> Callable[..., None]:
    def remark(_context: click.Context, _parameter: click.Parameter, value: object) -> None:
        if value:
            click.echo(f"{name} is not needed: {sentence}", err=True)

    return remark


class Width(click.types.IntParamType):
    """A number of processes or threads. In RQ ``-n`` is a worker's name; the error for such a value says so."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as e:
            raise click.BadParameter(
                f"{e.message.rstrip('.')}: it is the number of processes or threads. "
                "(A name, as -n has in rq worker, is not needed: each worker names itself.)",
                ctx,
                param,
            ) from None


class LogFormat(click.Choice[str]):
    """text or json. In RQ ``--log-format`` is a pattern of Python's logging; the error for such a value says so."""

    def __init__(self) -> None:
        super().__init__(["text", "json"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if isinstance(value, str) and "%" in value:
            raise UsageError("--log-format takes a pattern in rq worker only; give text or json (with all the fields)")
        return str(super().convert(value, param, ctx))


# The values of `rq worker --serializer`, and the formats that `jobq worker` accepts for each.
_SERIALIZERS = {
    "json": "json",
    "rq.serializers.JSONSerializer": "json",
    "jobqueue.serializers.JSON": "json",
    "pickle": "pickle",
    "default": "pickle",
    "rq.serializers.DefaultSerializer": "pickle",
    "rq.serializers.PickleSerializer": "pickle",
    "jobqueue.serializers.Auto": "json,pickle",
}


def formats_to_read(accept: str | None, serializer: str) -> tuple[tuple[str, ...], str]:
    """Return, from --accept and --serializer, the formats to accept and the user's own serializer ("" for none).

    Raises UsageError.
    """
    if accept is not None and serializer:
        raise UsageError("--accept and --serializer both say what this worker reads: give one of them")
    if serializer and serializer not in _SERIALIZERS:
        return ("json",), _dotted("--serializer", serializer, "class, as in shop.formats:MsgPack, json or pickle")
    return formats(accept or _SERIALIZERS.get(serializer, "json")), ""


def formats(text: str) -> tuple[str, ...]:
    """Parse --accept. Raises UsageError."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names or not set(names) <= {"json", "pickle"}:
        raise UsageError(f"--accept {text}: give json, pickle or json,pickle")
    return names


def dotted_names(_context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return each MODULE:FUNCTION in RQ's form, with dots. Raises UsageError."""
    return tuple(_dotted(parameter.opts[0], name, "function, as in shop.errors:report") for name in names)


def dotted_name(_context: click.Context, parameter: click.Parameter, name: str) -> str:
    """Return MODULE:CLASS in RQ's form, with dots. Raises UsageError."""
    return _dotted(parameter.opts[0], name, "class, as in shop.jobs:ShopJob") if name else ""


def _dotted(flag: str, name: str, what: str) -> str:
    found = name.replace(":", ".")
    if not all(part.isidentifier() for part in found.split(".")) or "." not in found:
        raise UsageError(f"{flag} {name}: give module:{what}")
    return found
