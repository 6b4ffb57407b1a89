"""The findings of an examination: one per thing examined, with advice where something is to be done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "note", "warning", "problem"]
SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "problem")
EXIT_CODES = {"ok": 0, "note": 0, "warning": 3, "problem": 4}  # 1 and 2 are errors of the command itself


@dataclass(frozen=True)
class Finding:
    """One thing that was examined. advice: "" when there is nothing to do; ids: of jobs, workers or queues."""

    check: str
    severity: Severity
    text: str
    advice: str = ""
    ids: tuple[str, ...] = ()


def worst(findings: Iterable[Finding]) -> Severity:
    """Return the highest severity among the findings; "ok" if there is none."""
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default="ok")
