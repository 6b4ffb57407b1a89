"""The type of all options that are numbers. Their bounds are in jobqueue/protocol/bounds.py."""

from __future__ import annotations

from typing import Any

import click

from jobqueue.protocol.bounds import Bounds, size_of


class Number(click.ParamType[float]):
    """A number within bounds; numbers of seconds may be written "30s", "5m", "1h", "2d". "nan" and "inf" are
    refused."""

    def __init__(self, bounds: Bounds) -> None:
        self.name = "seconds" if bounds.seconds else "number"
        self._bounds = bounds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = self._bounds.read(value)
        if number is None:
            self.fail(f"{str(value)!r} is not possible: give {self._bounds.describe()}.", param, ctx)
        return number if self._bounds.whole else float(number)


class Size(click.ParamType[int]):
    """A number of bytes, which may be written "64k" or "1m"."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return size_of(str(value))
        except ValueError as e:
            self.fail(str(e), param, ctx)
