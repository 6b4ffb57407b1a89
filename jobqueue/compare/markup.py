"""Build HTML and SVG as text. Every text is escaped unless it was built here, so that no caller can forget to
escape."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Any

from jobqueue.words import duration

# What neither HTML nor XML may hold: control characters, surrogates, and the noncharacters U+FFFE and U+FFFF.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_VOID = {"meta", "link", "br", "wbr", "col", "circle", "line", "rect", "path", "use"}
DASH = "\u2013"


class Html(str):
    """Text that is markup already and is not escaped again."""

    __slots__ = ()


def text(value: object) -> Html:
    """Return the value as text, escaped for content and attributes alike."""
    return value if isinstance(value, Html) else Html(escape(_FORBIDDEN.sub("\ufffd", str(value))))


def el(name: str, /, *children: object, **attributes: object) -> Html:
    """Return one element. ``class_`` stands for class, ``_`` within a name for ``-``; None is left out, True has no
    value.

    Children are escaped unless they are Html; None is skipped, iterables are flattened.
    """
    said = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    if name in _VOID and not children:
        return Html(f"<{name}{said}/>")
    return Html(f"<{name}{said}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Html:
    """Return the children one after the other, treated as in ``el``."""
    return Html("".join(_child(child) for child in children))


def _child(child: object) -> str:
    if child is None:
        return ""
    return join(child) if isinstance(child, Iterable) and not isinstance(child, str) else text(child)


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-").replace("viewbox", "viewBox")
    if value is True:
        return f" {name}"
    return f' {name}="{text(round(value, 2) if isinstance(value, float) else value)}"'


# -- numbers -------------------------------------------------------------------------------------------------------


def exact(value: Any) -> str:
    """Return a figure as the JSON has it, with commas between the thousands; a dash for None."""
    if value is None:
        return DASH
    if isinstance(value, bool) or not isinstance(value, int | float):
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    return f"{value + 0:,}".removesuffix(".0")  # + 0 turns -0.0 into 0.0


def short(value: float | None) -> str:
    """Return a figure in about three digits, for charts: 12,400 or 38.8 or 0.21."""
    if value is None:
        return DASH
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 or value == 0 else f"{value:.1g}"


def milliseconds(value: float | None) -> str:
    return seconds(None if value is None else value / 1000)


def seconds(value: float | None) -> str:
    """Return a time with the unit that suits it: 0.3 µs, 102 µs, 50.4 ms, 3.02 s; a dash for None."""
    return DASH if value is None else duration(value)
