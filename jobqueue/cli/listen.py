"""The type of options that name a port to listen at: PORT on the loopback, or HOST:PORT."""

from __future__ import annotations

from typing import Any

import click

LOOPBACK = "127.0.0.1"


class Listen(click.ParamType[str]):
    """A port, or host and port; the value is HOST:PORT. Without a host only this machine can connect."""

    name = "port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == "":  # the default: nowhere
            return ""
        host, _, port = str(value).rpartition(":")
        if not (port.isascii() and port.isdecimal() and int(port) <= 65535):
            self.fail(
                f"{str(value)!r} is no port: give 0 to 65535, or HOST:PORT (0.0.0.0:9727 for all hosts).", param, ctx
            )
        return f"{host or LOOPBACK}:{int(port)}"
