"""Name, order and colour the five rows of a comparison (the colours are classes of charts.css)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """The name and the style of a row. css: a class of charts.css."""

    mode: str
    one: str
    many: str
    css: str

    def of(self, workers: int) -> str:
        """Return the row's workers in words: 4 threads, 1 bare process; the loop has no number."""
        return self.many if self.mode == "loop" else f"{workers:,} {self.one if workers == 1 else self.many}"


LOOKS = {
    look.mode: look
    for look in (
        Look("thread", "thread", "threads", "thread"),
        Look("process", "process", "processes", "process"),
        Look("process x thread", "process x thread", "threads in processes", "process"),
        Look("ThreadPoolExecutor", "bare thread", "bare threads", "pool-thread"),
        Look("ProcessPoolExecutor", "bare process", "bare processes", "pool-process"),
        Look("loop", "plain loop", "plain loop", "loop"),
    )
}
MODES = ("thread", "process")
POOLS = ("ThreadPoolExecutor", "ProcessPoolExecutor")


def look(mode: str) -> Look:
    """Return the look of a row; an unknown row, as of a report by a later version, looks like the loop."""
    return LOOKS.get(mode) or Look(mode, mode, mode, "loop")
