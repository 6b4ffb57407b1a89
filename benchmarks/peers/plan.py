"""What is measured: the cells of each table, and how long they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Width(NamedTuple):
    """How much of a peer works: a number of processes, or one process with a number of slots."""

    kind: str  # "process", "slot"
    number: int

    @property
    def name(self) -> str:
        noun = {"process": "process", "slot": "slot"}[self.kind]
        return f"{self.number} {noun if self.number == 1 else noun + ('es' if noun.endswith('s') else 's')}"


ONE = Width("process", 1)


class Cell(NamedTuple):
    """One measurement of one peer. what: the method of ``Measure`` that does it; task: the body of its jobs."""

    table: str
    what: str
    width: Width | None = None
    task: str = "noop"

    @property
    def name(self) -> str:
        return f"{self.table}: {self.width.name}" if self.width else self.table


TABLES = ("enqueue", "drain", "sleep", "cpu", "latency", "memory", "growth")
CELLS = (
    Cell("enqueue", "enqueue"),
    *(Cell("drain", "drain", Width("process", number)) for number in (1, 2, 4)),
    *(Cell("drain", "drain", Width("slot", number)) for number in (1, 8)),
    *(Cell("sleep", "drain", Width("slot", number), "sleep") for number in (16, 100)),
    *(Cell("cpu", "drain", Width("process", number), "cpu") for number in (1, 2)),
    Cell("latency", "latency", ONE),
    Cell("memory", "memory", Width("slot", 4)),
    Cell("memory", "memory", Width("process", 4)),
    Cell("memory", "memory", Width("slot", 100)),
    Cell("growth", "growth", ONE),
)


@dataclass(frozen=True)
class Options:
    """What the command line says. jobs: of each run, in the place of ``seconds``' worth; waiting: of the row growth."""

    only: tuple[str, ...]
    tables: tuple[str, ...]
    rounds: int
    seconds: float
    jobs: int | None
    waiting: int

    def cells(self) -> list[Cell]:
        return [cell for cell in CELLS if cell.table in self.tables]
