"""Keep the number of a label's values bounded, because each one is a time series of its own in Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

OTHER = "other"


class BoundedLabels:
    """The names that have a label value of their own; all others count as "other". A name keeps its value for as long
    as it exists, so that no counter jumps."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._own: set[str] = set()

    def choose(self, names: Sequence[str]) -> None:
        """Give these names values of their own, the first ones first, while there is room; forget all others."""
        self._own.intersection_update(names)
        for name in names:
            if len(self._own) >= self._most:
                return
            self._own.add(name)

    def of(self, name: str) -> str:
        """Return the label value of a name."""
        return name if name in self._own else OTHER


def summed(pairs: Iterable[tuple[tuple[str, ...], float]]) -> dict[tuple[str, ...], float]:
    """Return the sum of the values for each tuple of labels."""
    sums: dict[tuple[str, ...], float] = {}
    for labels, value in pairs:
        sums[labels] = sums.get(labels, 0.0) + value
    return sums
