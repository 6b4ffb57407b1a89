"""``jobq logs ID``: what a job has logged and printed, where its worker keeps that (``--capture``)."""

from __future__ import annotations

import click

from jobqueue.cli.look import ENDED, connected
from jobqueue.cli.options import Id, json_option, url_option
from jobqueue.cli.render import json_line
from jobqueue.words import escaped


@click.command()
@click.argument("job_id", type=Id(), metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Print what is added, until the job has ended.")
@json_option
@url_option
def logs(job_id: str, follow: bool, as_json: bool, url: str | None) -> None:
    """Print what a job has logged and printed in its last run, and the traceback if it failed. Its worker has to run
    with --capture."""
    from jobqueue.admin.inspector import Inspector
    from jobqueue.errors import JobError
    from jobqueue.plugins.capture import stored_output, wait_a_turn

    with connected(url) as client:
        inspector, seen = Inspector(client), 0
        while True:
            has_ended = inspector.job(job_id).status in ENDED  # before the output, so that none of it is missed
            text, total = stored_output(client, job_id) or ("", 0)
            if total < seen:  # another run has begun
                seen = 0
            _show(job_id, text, total, seen, as_json)
            seen = total
            if has_ended or not follow:
                break
            wait_a_turn()
        if not seen:
            raise JobError(f"No output of job {job_id} is kept: was there any, and has its worker --capture?", job_id)


def _show(job_id: str, text: str, total: int, seen: int, as_json: bool) -> None:
    """Print what is new since ``seen`` bytes were there."""
    data = text.encode()
    new = data[len(data) - min(len(data), total - seen) :].decode("utf-8", "replace")
    missing = total - seen - len(data)
    if as_json:
        if total > seen:
            print(json_line({"id": job_id, "text": new, "total": total, "left_out": max(0, missing)}), flush=True)
        return
    if missing > 0:
        click.echo(f"({missing:,} bytes before this are not kept)", err=True)
    if new:
        print(escaped(new), end="", flush=True)
