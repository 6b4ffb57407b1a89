"""A TLS proxy in front of a server that has no TLS: the wheel's server is built without it, and many users have such a
proxy.

python tls_proxy.py UNIX_SOCKET CERTIFICATE   prints its loopback port and passes on what it hears until it is killed

CERTIFICATE is a file with the server's key and certificate for localhost. They are made for each test, by an authority
of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import trustme


@contextlib.contextmanager
def tls_in_front_of(unix_socket: str, directory: Path) -> Iterator[tuple[int, Path]]:
    """Yield a loopback port that takes TLS and passes what it hears on to the socket, and the authority's certificate.

    directory: for the files of the certificates.
    """
    authority, ca, certificate = trustme.CA(), directory / "ca.pem", directory / "server.pem"
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    argv = [sys.executable, __file__, unix_socket, str(certificate)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            assert proxy.stdout is not None
            yield int(proxy.stdout.readline()), ca
        finally:
            proxy.kill()


async def serve(unix_socket: str, certificate: str) -> None:
    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_unix_connection(unix_socket)
        await asyncio.gather(copy(reader, behind_writer), copy(behind_reader, writer))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
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
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
