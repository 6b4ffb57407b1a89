"""Take the elements of an iterable in pages, as ``itertools.batched`` of Python 3.12 does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def pages(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Iterate over lists of ``size`` elements; the last one may be shorter."""
    rest = iter(items)
    while page := list(islice(rest, size)):
        yield page
