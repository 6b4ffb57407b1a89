"""``jobq doctor``: say what is wrong with the store, and what to do about it."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import click

from jobqueue.cli.look import connected
from jobqueue.cli.numbers import Number
from jobqueue.cli.options import json_option, url_option
from jobqueue.cli.render import json_line
from jobqueue.cli.tables import wrapped_for_people
from jobqueue.protocol import bounds
from jobqueue.words import count, one_line

if TYPE_CHECKING:
    from jobqueue.doctor.finding import Finding

_LOOKS = {
    "ok": ("ok", "green"),
    "note": ("note", "cyan"),
    "warning": ("warning", "yellow"),
    "problem": ("problem", "red"),
}
_SHOWN = 10  # ids
PROGRESS_EVERY = 2.0  # seconds


@click.command()
@click.option(
    "--fix", is_flag=True, help="Put jobs that nobody holds, or that wait in vain for others, into their queues."
)
@click.option(
    "--patience",
    type=Number(bounds.DELAY),
    default=5.0,
    show_default=True,
    metavar="S",
    help="Seconds between the two looks at what nobody holds. Below 4, living workers may look dead.",
)
@json_option
@url_option
@click.pass_context
def doctor(ctx: click.Context, fix: bool, patience: float, as_json: bool, url: str | None) -> None:
    """Examine the store: server, queues, workers, and jobs that are lost.

    Exit code 0: fine, or only notes; 3: warnings; 4: problems.
    """
    from jobqueue.doctor.examine import examine
    from jobqueue.doctor.finding import EXIT_CODES, worst

    findings: list[Finding] = []
    with connected(url) as client:
        for finding in examine(client, fix=fix, patience=patience, tell=DoctorProgress()):
            findings.append(finding)
            if not as_json:
                _show(finding)
    severity = worst(findings)
    if as_json:
        print(json_line({"severity": severity, "findings": [dataclasses.asdict(finding) for finding in findings]}))
    else:
        _sum_up(findings)
    sys.stdout.flush()
    ctx.exit(EXIT_CODES[severity])


class DoctorProgress:
    """Prints on stderr how far the examination is, when it takes longer than expected."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PROGRESS_EVERY

    def __call__(self, text: str) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + PROGRESS_EVERY
            print(f"jobq: {text} ...", file=sys.stderr, flush=True)


def _show(finding: Finding) -> None:
    word, color = _LOOKS[finding.severity]
    text = wrapped_for_people(one_line(finding.text), f"{word:8} ", f"{'':8} ")
    print(click.style(text[:8], fg=color) + text[8:] if sys.stdout.isatty() else text)
    if finding.advice:
        print(wrapped_for_people(finding.advice, f"{'':8}   ", f"{'':8}   "))
    if finding.check in ("limbo", "dependents"):
        for job_id in finding.ids[:_SHOWN]:
            print(f"{'':8}     {one_line(job_id)}")
        if len(finding.ids) > _SHOWN:
            print(f"{'':8}     and {len(finding.ids) - _SHOWN:,} more: --json lists all")
    sys.stdout.flush()


def _sum_up(findings: list[Finding]) -> None:
    counts = Counter(finding.severity for finding in findings)
    found = [count(counts[s], s) for s in ("problem", "warning", "note") if counts[s]]
    print(f"\n{', '.join(found) if found else 'Nothing to say: all is well.'}")
