"""Print tables: whole words in as many columns as there is room for on a terminal; tab-separated text into a pipe.

A column is never folded. When not all fit, text that can be long is cut at its end with an ellipsis, and columns are
left out: those of only zeros or dashes first, then the less important ones; a line on stderr names them. Where not even
the rest fits, each row becomes a paragraph with a line per column.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from jobqueue.cli.render import ago, since
from jobqueue.words import one_line

GAP = "  "
SHORTEST_CUT = 16  # characters that a cut text keeps at least
BUILT_IN = "jobqueue.tasks."  # the prefix of built-in tasks, which is not shown
NOTHING = frozenset({"", "-", "0"})

wide_option = click.option("--wide", is_flag=True, help="Show all columns in full, however long the lines get.")


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    numbers: Sequence[str] = (),
    can_be_cut: Sequence[str] = (),
    least_important: Sequence[str] = (),
    wide: bool = False,
) -> None:
    """Print rows. numbers: columns that are aligned at the right; can_be_cut: columns with text that may be long;
    least_important: columns that may be left out, in this order; wide: leave nothing out, as into a pipe.

    A datetime is shown as its distance from now, and in full where there is room for all columns.
    """
    for_people = sys.stdout.isatty()
    texts = [[_text(cell, short=for_people and not wide) for cell in row] for row in rows]
    if not for_people:
        for row in [list(head), *texts]:
            print("\t".join(row))
        return
    columns = {name: [row[i] for row in texts] for i, name in enumerate(head)}
    room = shutil.get_terminal_size().columns
    missing = [] if wide else _leave_out(columns, room, can_be_cut, least_important)
    if not wide and texts and _needed(columns, can_be_cut) > room:
        _print_paragraphs(head, texts, room)
        return
    widths = {name: _width([name, *cells]) for name, cells in columns.items()}
    if not wide:
        _cut(columns, widths, room, can_be_cut)
    _print(columns, widths, numbers)
    if missing:
        print(_wrapped(f"not shown at {room} columns: {', '.join(missing)}; --wide shows all", room), file=sys.stderr)


def _text(cell: Any, short: bool) -> str:
    if isinstance(cell, datetime):
        return since(cell) if short else ago(cell)
    text = "-" if cell is None else one_line(str(cell))
    return text.removeprefix(BUILT_IN) if short else text


def _width(texts: Sequence[str]) -> int:
    from rich.cells import cell_len  # a character may take two cells

    return max(map(cell_len, texts))


def _needed(columns: dict[str, list[str]], can_be_cut: Sequence[str]) -> int:
    """Return the cells that the columns take when long texts are cut as far as allowed."""
    widths = (
        min(_width([name, *cells]), max(SHORTEST_CUT, len(name))) if name in can_be_cut else _width([name, *cells])
        for name, cells in columns.items()
    )
    return sum(widths) + len(GAP) * (len(columns) - 1)


def _leave_out(
    columns: dict[str, list[str]], room: int, can_be_cut: Sequence[str], least_important: Sequence[str]
) -> list[str]:
    """Take columns out until the others fit; return their names."""
    silent = [name for name in least_important if NOTHING.issuperset(columns[name])]
    missing = []
    for name in [*silent, *(name for name in least_important if name not in silent)]:
        if _needed(columns, can_be_cut) <= room:
            break
        del columns[name]
        missing.append(name)
    return missing


def _cut(columns: dict[str, list[str]], widths: dict[str, int], room: int, can_be_cut: Sequence[str]) -> None:
    """Shorten the widest of the columns that can be cut, until the line fits or nothing more can be cut."""
    too_much = sum(widths.values()) + len(GAP) * (len(widths) - 1) - room
    while too_much > 0:
        able = [name for name in columns if name in can_be_cut and widths[name] > max(SHORTEST_CUT, len(name))]
        if not able:
            return
        widest = max(able, key=widths.__getitem__)
        widths[widest] -= 1
        too_much -= 1


def _print(columns: dict[str, list[str]], widths: dict[str, int], numbers: Sequence[str]) -> None:
    def line(cells: Sequence[str]) -> str:
        fitted = (_fit(cell, widths[name], name in numbers) for name, cell in zip(columns, cells, strict=True))
        return GAP.join(fitted).rstrip()

    click.echo(click.style(line(list(columns)), bold=True))
    click.echo("─" * (sum(widths.values()) + len(GAP) * (len(widths) - 1)))
    for row in zip(*columns.values(), strict=True):
        print(line(row))


def _print_paragraphs(head: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> None:
    for row in rows:
        for name, cell in zip(head, row, strict=True):
            print(_wrapped(f"{name}: {cell}", room))
        print()


def wrapped_for_people(text: str, first: str, more: str) -> str:
    """Fold a sentence at whole words on a terminal. first, more: the beginning of its first line and of the others."""
    if not sys.stdout.isatty():
        return first + text
    room = max(shutil.get_terminal_size().columns, len(more) + SHORTEST_CUT)
    return textwrap.fill(text, room, initial_indent=first, subsequent_indent=more, break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip


def _wrapped(text: str, room: int) -> str:
    return textwrap.fill(text, room, subsequent_indent=GAP, break_long_words=False, break_on_hyphens=False)


def _fit(text: str, width: int, is_number: bool) -> str:
    from rich.cells import cell_len, chop_cells

    if cell_len(text) > width:
        text = chop_cells(text, width - 1)[0] + "…"
    padding = " " * (width - cell_len(text))
    return padding + text if is_number else text + padding
