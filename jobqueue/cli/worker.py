"""``jobq worker``: the command's options. Its body is one of the three places that import ``jobqueue.workers``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobqueue.cli.early import is_program, runs_until_stopped
from jobqueue.cli.listen import Listen
from jobqueue.cli.numbers import Number, Size
from jobqueue.cli.options import QueueName, a_file, opened, url_option
from jobqueue.cli.rq_flags import LogFormat, Width, dotted_name, dotted_names, formats_to_read, refuses_rqs_flags
from jobqueue.cli.terminated import stops_as_asked
from jobqueue.cli.until_eof import stop_at_eof
from jobqueue.errors import UsageError
from jobqueue.executor.private_queue import erase, pipe_to
from jobqueue.protocol import bounds

if TYPE_CHECKING:
    from jobqueue.schedules.timetable import Schedule


def in_a_directory(_context: click.Context, parameter: click.Parameter, path: str) -> str:
    """Refuse a file that could never be written, because its directory is missing or not writable."""
    place = os.path.dirname(os.path.abspath(path))
    if path and not os.access(place, os.W_OK | os.X_OK):
        raise click.BadParameter(f"{path}: there is no directory {place} that we may write to", param=parameter)
    return path


def or_zero(_context: click.Context, _parameter: click.Parameter, value: int | None) -> int:
    """Return 0, which is "no limit" in Settings, for an option that was not given."""
    return value or 0


EXIT_CODES = """
Exit codes: 0 stopped as asked, everything given back or settled; 1 the store was away at the end (the next worker
rescues what was held); 2 it could not start: wrong flag, a module that cannot be imported; with --strict-queue or
--check: a queue whose first job it does not serve.
"""


@click.command(epilog=EXIT_CODES)
@click.argument("queues", type=QueueName(), nargs=-1, metavar="[QUEUE]...")
@click.option("--mode", type=click.Choice(["process", "thread"]), default="process", show_default=True)
@click.option(
    "-n", "number", type=Width(), help="Processes, or threads in thread mode.  [default: cores, or 16 threads]"
)
@click.option("--threads", type=int, help="Threads in each process.  [default: 1]")
@click.option("--burst", "-b", is_flag=True, help="Leave when the queues are empty and all is settled.")
@click.option(
    "-I",
    "--import",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Serve this module's functions; MODULE:FUNCTION serves that one only.",
)
@click.option("--allow-any", is_flag=True, help="Run any importable function, as plain RQ does.")
@click.option("--accept", help="Formats to read: json, or json,pickle.  [default: json]")
@click.option("--serializer", "-S", default="", metavar="CLASS",
              help="Read and write everything with this, in the place of --accept.")  # fmt: skip
@click.option("--job-class", "-j", default="", metavar="CLASS", callback=dotted_name,
              help="What tasks, callbacks and handlers see as their job: RQ's Job, with more to it.")  # fmt: skip
@click.option("--queue-class", default="", metavar="CLASS", callback=dotted_name,
              help="Accepted if it only adds to RQ's Queue: workers have no use for it.")  # fmt: skip
@click.option("--allow-private", is_flag=True, help="Let download and scrape reach private and loopback addresses.")
@click.option("--on-crash", type=click.Choice(["retry", "fail"]), default="retry", show_default=True,
              help="What becomes of a job whose process dies.")  # fmt: skip
@click.option("--exception-handler", "exception_handlers", multiple=True, metavar="MODULE:FUNCTION",
              callback=dotted_names, help="Call this for each exception of a job, as `rq worker` does.")  # fmt: skip
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE:CLASS",
              help="Use this plugin; JOBQ_PLUGINS names more. See jobq plugins.")  # fmt: skip
@click.option("--no-plugin", "no_plugins", multiple=True, metavar="NAME",
              help="Do not use this one, which jobq plugins lists; all: none but those of --plugin.")  # fmt: skip
@click.option("--capture", type=Size(), default=0, envvar="JOBQ_CAPTURE", metavar="SIZE",
              help="Keep so much of the end of what each job logs and prints (64k, 1m), for jobq logs.")  # fmt: skip
@click.option("--dequeue-strategy", "-ds", type=click.Choice(["ordered", "round_robin", "random"]), default="ordered",
              show_default=True, help="Which of several queues gives the next job.")  # fmt: skip
@click.option("--results-ttl", "default_result_ttl", type=Number(bounds.RESULT_TTL), default=500, show_default=True,
              metavar="S", help="Seconds to keep results of jobs that do not say how long; -1 for ever.")  # fmt: skip
@click.option("--strict-queue", is_flag=True, help="Do not start while the first job of a queue is not served.")
@click.option("--strict-start", is_flag=True, help="Mark every start in the store before the job runs.")
@click.option("--max-jobs", type=Number(bounds.COUNT), metavar="N", callback=or_zero,
              help="Replace a process after it began N jobs.")  # fmt: skip
@click.option("--max-memory", type=Number(bounds.COUNT), metavar="MB", callback=or_zero,
              help="Replace a process that grew over MB (USS).")  # fmt: skip
@click.option("--grace", type=Number(bounds.DELAY), default=30.0, show_default=True, metavar="S",
              help="Seconds that running jobs have at a stop.")  # fmt: skip
@click.option("--scheduler/--no-scheduler", default=True, help="Enqueue delayed jobs and schedules when they are due.")
@click.option("--cron", "cron_files", multiple=True, metavar="FILE", shell_complete=a_file,
              help="Serve this RQ cron file; see jobq cron.")  # fmt: skip
@click.option("--maintenance-interval", type=Number(bounds.DELAY), default=600.0, show_default=True, metavar="S",
              help="Seconds between two rounds of RQ's maintenance; 0 leaves it to others.")  # fmt: skip
@click.option("--health-file", type=click.Path(dir_okay=False), default="", metavar="FILE", callback=in_a_directory,
              help="Say there once a second whether this worker can claim; see jobq worker-health.")  # fmt: skip
@click.option("--metrics-port", type=Listen(), default="", metavar="[HOST:]PORT",
              help="Serve this worker's metrics and /healthz there; 0: a free port, which the log names.")  # fmt: skip
@click.option("--until-eof", is_flag=True, help="Stop when stdin ends: when the program that started this is gone.")
# Delete the queues if the program that started this worker is gone.
@click.option("--private", is_flag=True, hidden=True)
@click.option("--directory", hidden=True, default="")  # remove this directory of that program, too
@click.option("--store-wait", type=Number(bounds.DELAY), default=20.0, show_default=True, metavar="S",
              help="Seconds to wait at the start for a store that does not answer.")  # fmt: skip
@click.option("--log-format", type=LogFormat(), default="text", show_default=True)
@click.option("-v", "--verbose", is_flag=True, help="Log every job.")
@click.option("--check", is_flag=True, help="Check flags, store, modules and queues, and leave.")
@refuses_rqs_flags
@url_option
@stops_as_asked
def worker(
    queues: tuple[str, ...],
    mode: str,
    number: int | None,
    threads: int | None,
    accept: str | None,
    serializer: str,
    cron_files: tuple[str, ...],
    strict_queue: bool,
    until_eof: bool,
    private: bool,
    directory: str,
    store_wait: float,
    check: bool,
    url: str | None,
    **options: Any,  # fields of Settings
) -> None:
    """Run jobs from the QUEUEs ("default") in threads or in processes."""
    from jobqueue.workers.forking.prepare import prepared_fork_server
    from jobqueue.workers.launcher import launch, shape, worker_name
    from jobqueue.workers.shared.log_stream import never_wait_for_a_reader
    from jobqueue.workers.shared.settings import Settings

    never_wait_for_a_reader()
    children, slots = shape(mode, number, threads)
    accepted, own_serializer = formats_to_read(accept, serializer)
    if cron_files and own_serializer:
        raise UsageError("--cron and --serializer do not go together: what a cron file enqueues is JSON or pickle")
    entries = [entry for path in cron_files for entry in cron_entries(path, accepted)]
    with (
        prepared_fork_server(not check and is_program(sys.argv) and runs_until_stopped(sys.argv[1:])) as fork_server,
        stop_at_eof(until_eof, directory) as left_alone,
        opened(url, wait=store_wait) as store,
    ):
        settings = Settings(
            address=store.address,
            worker=worker_name(),
            queues=tuple(dict.fromkeys(queues)) or ("default",),
            children=children,
            slots=slots,
            accept=accepted,
            serializer=own_serializer,
            lease=lease_time(os.environ),
            accounting=os.environ.get("JOBQ_ACCOUNTING") != "0",  # for benchmarks/accounting.py, which measures it
            **options,
        )
        code = launch(
            settings, mode, store, cron=entries, check_only=check, strict_queue=strict_queue, fork_server=fork_server
        )
        if private and left_alone.is_set():  # no other program knows these queues: their jobs would stay for ever
            erase(pipe_to(store.client()), settings.queues)
    sys.exit(code)


@click.command("worker-health")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--max-age", type=Number(bounds.AGE), default=10.0, show_default=True, metavar="S",
              help="Seconds after which the file is called stale: the worker hangs or is gone.")  # fmt: skip
def worker_health(file: str, max_age: float) -> None:
    """Say whether the worker with this --health-file can claim jobs: exit code 0 or 1, for liveness probes."""
    try:
        report = json.loads(Path(file).read_text())
        age, able, why = time.time() - report["time"], report["able"], report["why"]
    except (OSError, ValueError, KeyError, TypeError):
        age, able, why = 0.0, False, f"{file} is not a health file: is the worker running with --health-file {file}?"
    if age > max_age:
        able, why = False, f"the worker has said nothing for {age:.0f} s"
    click.echo(why, err=not able)
    sys.exit(0 if able else 1)


def cron_entries(path: str, accept: tuple[str, ...]) -> list[Schedule]:
    """Return the schedules that a cron file registers. Raises BadCronFile."""
    from jobqueue.producing.cronfile import read  # imported here because it imports RQ's cron

    return read(path, accept)


def lease_time(env: Mapping[str, str]) -> float:
    """Return JOBQ_LEASE, the seconds without a sign of life after which a tree is called dead (set by tests). Raises
    UsageError."""
    text = env.get("JOBQ_LEASE") or "10"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise UsageError(f"JOBQ_LEASE={text}: give seconds, from 1 to 3600")
    return seconds
