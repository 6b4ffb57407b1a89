"""Word numbers, durations and foreign texts the same in every report, table and log line."""

from __future__ import annotations

import re

TITLE = "jobq: "  # how the titles of a worker's processes begin
_LONG = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
# C0 without newline and tab, DEL, C1, and the characters that reorder or hide text
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def plural(noun: str) -> str:
    """Return the plural of a regular noun: jobs, processes."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number of things in words: 1 job, 12,000 jobs, 2 processes. many: the plural where it is not regular."""
    return f"{number:,} {one if number == 1 else many or plural(one)}"


def duration(seconds: float) -> str:
    """Return a duration in three digits or two units: 0 s, 12 µs, 4.5 ms, 12.3 s, 4 min 5 s, 3 h 20 min, 2 d 4 h."""
    if seconds < 0:  # the difference of two clocks that disagree
        return f"-{duration(-seconds)}"
    rounded = float(f"{seconds:.3g}")  # before the unit is chosen: 0.9999 s is 1 s, and not 1000 ms
    if rounded >= 60:
        return _long(round(seconds))
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if rounded >= size or rounded == 0:
            return f"{rounded / size:.3g} {unit}"
    return f"{rounded * 1e6:.3g} µs"


def _long(seconds: int) -> str:
    size, unit, smaller, name = next(scale for scale in _LONG if seconds >= scale[0])
    rest = seconds % size // smaller
    return f"{seconds // size} {unit}" + (f" {rest} {name}" if rest else "")


def escaped(text: str) -> str:
    """Return the text with every character that a terminal would obey written as \\x1b or \\u202e."""
    return UNSAFE.sub(lambda m: rf"\x{ord(m[0]):02x}" if ord(m[0]) < 256 else rf"\u{ord(m[0]):04x}", text)


def one_line(text: str) -> str:
    return escaped(text.replace("\r\n", " ").replace("\n", " ").replace("\t", " "))
