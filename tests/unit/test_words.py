"""Numbers and times in words."""

from __future__ import annotations

import pytest

from jobqueue.words import count, duration, plural


@pytest.mark.parametrize(
    ("number", "nouns", "said"),
    [
        (1, ("job",), "1 job"),
        (0, ("job",), "0 jobs"),
        (12_000, ("job",), "12,000 jobs"),
        (2, ("process",), "2 processes"),
        (1, ("entry", "entries"), "1 entry"),
        (3, ("entry", "entries"), "3 entries"),
        (2, ("job waits", "jobs wait"), "2 jobs wait"),
    ],
)
def test_numbers_with_their_nouns(number: int, nouns: tuple[str, ...], said: str) -> None:
    assert count(number, *nouns) == said


def test_plurals_of_nouns() -> None:
    assert [plural("thread"), plural("process")] == ["threads", "processes"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (-0.0123, "-12.3 ms"),
        (3e-7, "0.3 µs"),
        (0.000_102, "102 µs"),
        (0.000_999_9, "1 ms"),
        (0.0123, "12.3 ms"),
        (0.0504, "50.4 ms"),
        (0.999_9, "1 s"),
        (3, "3 s"),
        (3.021, "3.02 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (61, "1 min 1 s"),
        (245, "4 min 5 s"),
        (3599.9, "1 h"),
        (7200, "2 h"),
        (100_000, "1 d 3 h"),
    ],
)
def test_durations_in_words(seconds: float, said: str) -> None:
    assert duration(seconds) == said
