"""Write the report of ``jobq compare`` as one HTML page without script, network access or further files.

    report (docs/compare.md) ─► top: machine, verdicts ─► a section per task ─► leak, crash, limit ─► words ─► raw JSON

All text of the report goes through markup.el, which escapes it. The figures of the tables are those of the JSON.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from jobqueue.compare.charts.drawing import style
from jobqueue.compare.markup import Html, el, join
from jobqueue.compare.page import tasks, top, trials, words
from jobqueue.errors import UsageError

# The page loads nothing. Should the text of a report ever escape the markup, this policy keeps it from running.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write(report: dict[str, Any], path: Path) -> None:
    """Write the report as an HTML file, whole or not at all. Raises UsageError when it cannot be written there."""
    content = render(report)
    try:
        _replace(path, content.encode("utf-8"))
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(f"The HTML report cannot be written to {path}: {why}.") from error


def check(path: Path) -> None:
    """Raise UsageError if no file can be written there. Call it before a long measurement, not after."""
    try:
        if _replaceable(path.resolve()):
            with tempfile.TemporaryFile(dir=path.resolve().parent):
                pass
    except OSError as error:
        raise UsageError(f"The HTML report cannot be written to {path}: {error.strerror or error}.") from error


def _replace(path: Path, content: bytes) -> None:
    """Write a temporary file in the same directory and rename it. A symbolic link stays a link; its target is
    replaced."""
    target = path.resolve()
    if not _replaceable(target):
        target.write_bytes(content)
        return
    fd, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
    try:
        with open(fd, "wb") as file:
            file.write(content)
        os.chmod(name, target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _replaceable(target: Path) -> bool:
    """Return whether the target is a regular file or missing. Others, as a pipe or /dev/stdout, are written to. Raises
    OSError."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return stat.S_ISREG(mode)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def render(report: dict[str, Any]) -> str:
    """Return the page as text."""
    body = join(
        [
            top.header(report),
            el("main", top.verdicts(report), tasks.sections(report), trials.section(report), words.section()),
            _raw(report),
        ]
    )
    return f"<!DOCTYPE html>\n{el('html', _head(report), el('body', body), lang='en')}\n"


def _head(report: dict[str, Any]) -> Html:
    css = style() + resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="generator", content=f"jobq {report['machine']['jobq']}"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", top.title(report)),
        el("link", rel="icon", href="data:,"),
        el("style", Html(css)),
    )


def _raw(report: dict[str, Any]) -> Html:
    """Return the report as JSON, for readers who want to check or compute."""
    summary = el("summary", "All figures as JSON, as ", el("code", "jobq compare --json"), " prints them")
    raw = el("pre", json.dumps(report, indent=1), id="report")  # ASCII: the same text whatever the page's encoding
    return el("footer", el("details", summary, raw))
