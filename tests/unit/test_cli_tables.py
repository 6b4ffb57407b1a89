"""Tables at several widths: no line is wrapped, and no column is left out without saying so."""

from __future__ import annotations

import os
import re
import shutil
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from jobqueue.cli import COMMANDS, main
from jobqueue.cli.tables import table

HEAD = ["job", "queue", "ended", "tries", "call"]
ENDED = datetime.now(UTC) - timedelta(days=2, hours=3, seconds=5)  # "2 d 3 h ago" for the next hour
ROWS = [
    ["a" * 32, "default", ENDED, 0, "resize('a very long name of a file')"],
    ["b" * 32, "low", None, 0, "resize(\x1b[1m'x')"],
]


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """``show(columns)`` returns what a terminal of this width shows of the rows (stdout, stderr)."""

    def at(columns: int, **kwargs: Any) -> tuple[str, str]:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: columns > 0, raising=False)
        monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((columns, 24)))
        options = {"numbers": ["tries"], "can_be_cut": ["call"], "least_important": ["queue", "tries", "ended"]}
        table(HEAD, ROWS, **{**options, **kwargs})
        out, err = capsys.readouterr()
        return re.sub("\x1b\\[[0-9;]*m", "", out), err

    return at


def test_a_wide_terminal_shows_every_column(show: Any) -> None:
    out, err = show(150)
    assert out.splitlines()[0].split() == HEAD
    assert "2 d 3 h ago" in out
    assert "resize('a very long name of a file')" in out
    assert r"resize(\x1b[1m'x')" in out
    assert err == ""


@pytest.mark.parametrize("columns", range(56, 110))
def test_words_are_not_split_at_any_width(show: Any, columns: int) -> None:
    out, err = show(columns)
    assert max(map(len, out.splitlines())) <= columns
    shown = out.splitlines()[0].split()
    assert [name for name in HEAD if name in shown] == shown
    missing = [name for name in HEAD if name not in shown]
    assert all(name in err for name in missing)
    assert ("not shown" in err) == bool(missing)
    assert {"job", "call"} <= set(shown)
    assert "a" * 32 in out, "ids are copied"
    assert missing[:1] in ([], ["tries"]) or "tries" in missing, "what says nothing goes first"
    assert ("resize('a very long name of a file')" in out) or "…" in out


@pytest.mark.parametrize("columns", [20, 40, 49])
def test_a_very_narrow_terminal_gets_paragraphs_in_place_of_a_table(show: Any, columns: int) -> None:
    out, err = show(columns)
    assert max(map(len, out.splitlines())) <= max(columns, 34)
    assert [line.partition(":")[0] for line in out.splitlines() if line and not line.startswith(" ")] == HEAD * 2
    assert err == ""


def test_wide_shows_all_in_full(show: Any) -> None:
    out, err = show(40, wide=True)
    assert out.splitlines()[0].split() == HEAD
    assert f"{ROWS[0][2].astimezone():%Y-%m-%d %H:%M:%S} (2 d 3 h ago)" in out
    assert err == ""


def test_output_to_a_pipe_has_tabs_and_full_times(show: Any) -> None:
    out, err = show(0)
    first, second, third = out.splitlines()
    assert first == "\t".join(HEAD)
    assert second.split("\t")[2].startswith(f"{ROWS[0][2].astimezone():%Y-%m-%d}")
    assert third.split("\t")[2:4] == ["-", "0"]
    assert err == ""


@pytest.mark.parametrize("columns", [40, 80])
def test_help_is_complete_and_fits_the_terminal(columns: int) -> None:
    groups = [[], *([name] for name in COMMANDS if name in ("failed", "schedule", "store"))]
    for command in groups:
        shown = CliRunner().invoke(main, [*command, "--help"], terminal_width=columns).output
        listed = shown.partition("Commands:")[2]
        assert "..." not in listed
        assert max(map(len, shown.splitlines())) <= columns
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", CliRunner().invoke(main, ["--help"]).output, re.M)
