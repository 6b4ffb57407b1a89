"""``jobq worker``: the one door to the ``workers`` package."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import click

from jobqueue.cli.options import opened, url_option

EXIT_CODES = """
Exit codes: 0 stopped as asked, everything given back or settled; 1 the store was away at the end (the next worker
rescues what was held); 2 it could not start: wrong flag, a module that cannot be imported, a queue it may not serve.
"""


@click.command(epilog=EXIT_CODES)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option("--mode", type=click.Choice(["process", "thread"]), default="process", show_default=True)
@click.option("-n", "number", type=int, help="Processes, or threads in thread mode.  [default: cores, or 16 threads]")
@click.option("--threads", type=int, help="Threads in each process.  [default: 1]")
@click.option("--burst", is_flag=True, help="Leave when the queues are empty and all is settled.")
@click.option("-I", "--import", "modules", multiple=True, metavar="MODULE", help="Serve this module's functions.")
@click.option("--allow-any", is_flag=True, help="Run any importable function, as plain RQ does.")
@click.option("--accept", default="json", show_default=True, help="Formats to read: json, or json,pickle.")
@click.option("--allow-private", is_flag=True, help="Let download and scrape reach private and loopback addresses.")
@click.option("--on-crash", type=click.Choice(["retry", "fail"]), default="retry", show_default=True,
              help="What becomes of a job whose process dies.")  # fmt: skip
@click.option("--strict-start", is_flag=True, help="Mark every start in the store before the job runs.")
@click.option("--max-jobs", type=click.IntRange(min=1), metavar="N", help="Replace a process after it began N jobs.")
@click.option(
    "--max-memory", type=click.IntRange(min=1), metavar="MB", help="Replace a process that grew over MB (USS)."
)
@click.option("--grace", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="S",
              help="Seconds that running jobs have at a stop.")  # fmt: skip
@click.option("--scheduler/--no-scheduler", default=True, help="Enqueue delayed jobs when they are due.")
@click.option("--health-file", type=click.Path(dir_okay=False), default="", metavar="FILE",
              help="Say there once a second whether this worker can claim; see jobq worker-health.")  # fmt: skip
@click.option("--store-wait", type=click.FloatRange(min=0), default=20.0, show_default=True, metavar="S",
              help="Seconds to wait at the start for a store that does not answer.")  # fmt: skip
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("-v", "--verbose", is_flag=True, help="Log every job.")
@click.option("--check", is_flag=True, help="Check flags, store, modules and queues, and leave.")
@url_option
def worker(
    queues: tuple[str, ...],
    mode: str,
    number: int | None,
    threads: int | None,
    burst: bool,
    modules: tuple[str, ...],
    allow_any: bool,
    accept: str,
    allow_private: bool,
    on_crash: str,
    strict_start: bool,
    max_jobs: int | None,
    max_memory: int | None,
    grace: float,
    scheduler: bool,
    health_file: str,
    store_wait: float,
    log_format: str,
    verbose: bool,
    check: bool,
    url: str | None,
) -> None:
    """Run jobs from the QUEUEs ("default") in threads or in processes."""
    from workers.launcher import launch, shape, worker_name
    from workers.settings import Settings

    children, slots = shape(mode, number, threads)
    await_store(url, store_wait)
    with opened(url) as store:
        settings = Settings(
            address=store.address,
            worker=worker_name(),
            queues=tuple(dict.fromkeys(queues)) or ("default",),
            children=children,
            slots=slots,
            modules=modules,
            allow_any=allow_any,
            allow_private=allow_private,
            accept=formats(accept),
            on_crash=on_crash,
            strict_start=strict_start,
            max_jobs=max_jobs or 0,
            max_memory=max_memory or 0,
            burst=burst,
            scheduler=scheduler,
            grace=grace,
            health_file=health_file,
            lease=lease_time(os.environ),
            log_format=log_format,
            verbose=verbose,
        )
        code = launch(settings, mode, store, check_only=check)
    sys.exit(code)


@click.command("worker-health")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--max-age", type=click.FloatRange(min=1), default=10.0, show_default=True, metavar="S",
              help="Seconds after which the file is called stale: the worker hangs or is gone.")  # fmt: skip
def worker_health(file: str, max_age: float) -> None:
    """Say whether the worker with this --health-file can claim jobs: exit code 0 or 1, for liveness probes."""
    try:
        report = json.loads(Path(file).read_text())
        age, able, why = time.time() - report["time"], report["able"], report["why"]
    except (OSError, ValueError, KeyError, TypeError):
        age, able, why = 0.0, False, f"{file} is no health file: is the worker running with --health-file {file}?"
    if age > max_age:
        able, why = False, f"the worker has said nothing for {age:.0f} s"
    click.echo(why, err=not able)
    sys.exit(0 if able else 1)


def lease_time(env: Mapping[str, str]) -> float:
    """JOBQ_LEASE: seconds without a sign of life after which a tree is called dead (for tests). Raises UsageError."""
    from jobqueue.errors import UsageError

    text = env.get("JOBQ_LEASE") or "10"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise UsageError(f"JOBQ_LEASE={text}: give seconds, from 1 to 3600")
    return seconds


def await_store(url: str | None, seconds: float) -> None:
    """Wait for a store that does not answer yet; say so once. After ``seconds`` opening it raises what it raises."""
    from jobqueue.connection import open_store
    from jobqueue.errors import StoreLoading, StoreUnreachable

    deadline, told, delay = time.monotonic() + seconds, False, 0.1
    while time.monotonic() < deadline:
        try:
            open_store(url).close()
            return
        except (StoreUnreachable, StoreLoading) as e:
            if not told:
                click.echo(f"{e}; waiting for it, {seconds:g} s at most", err=True)
                told = True
            time.sleep(min(delay * random.uniform(0.5, 1.0), max(0.0, deadline - time.monotonic())))
            delay = min(2.0, 2 * delay)


def formats(text: str) -> tuple[str, ...]:
    """Parse --accept. Raises UsageError."""
    from jobqueue.errors import UsageError

    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names or not set(names) <= {"json", "pickle"}:
        raise UsageError(f"--accept {text}: give json, pickle or json,pickle")
    return names
