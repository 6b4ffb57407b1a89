"""A job's hash from other producers: what RQ's code reads of it is what can be read, within the bounds."""

from __future__ import annotations

import json

import pytest

from jobqueue.protocol.bounds import LONGEST
from jobqueue.protocol.hashes import readable


@pytest.mark.parametrize("name", [b"retry_intervals", b"repeat_intervals"])
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("[60, 120]", [60, 120]),
        ("[1.5]", [1.5]),
        ("[true]", [1]),
        ("[NaN, 5]", [0, 5]),  # rq.Retry(2, [nan]) is accepted by RQ, and so are those below
        ("[Infinity]", [LONGEST]),
        ("[1e300]", [LONGEST]),
        (f"[{10**30}]", [LONGEST]),
        ("[-5, -Infinity]", [0, 0]),
        ("60", [60]),
        ("[]", None),
        ("{}", None),
        ("null", None),
        ('["x"]', None),
        ("[[1]]", None),
        ("nan", None),
        ("[" * 100_000, None),
        ("9" * 10_000, None),
        ("\udcff", None),
    ],
)
def test_intervals(name: bytes, text: str, kept: list[float] | None) -> None:
    read = readable({name: text.encode(errors="surrogateescape")})
    assert (json.loads(read[name]) if read else None) == kept
