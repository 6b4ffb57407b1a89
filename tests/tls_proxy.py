"""TLS in front of a server that speaks none: the wheel's server is built without it, and a proxy is what many use.

python tls_proxy.py UNIX_SOCKET      prints its loopback port and passes on what it hears until it is killed
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CERTIFICATES = Path(__file__).parent / "tls"
CA = CERTIFICATES / "ca.pem"


@contextlib.contextmanager
def tls_in_front_of(unix_socket: str) -> Iterator[int]:
    """Yield a loopback port that takes TLS and passes what it hears on to the socket."""
    with subprocess.Popen([sys.executable, __file__, unix_socket], stdout=subprocess.PIPE, text=True) as proxy:
        try:
            assert proxy.stdout is not None
            yield int(proxy.stdout.readline())
        finally:
            proxy.kill()


async def serve(unix_socket: str) -> None:
    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_unix_connection(unix_socket)
        await asyncio.gather(copy(reader, behind_writer), copy(behind_reader, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "server.pem", CERTIFICATES / "server.key")
    server = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
