"""Decide where a job may connect: to the public internet, and to private addresses only if the operator allows it.

Numbers are judged, not names: a host is resolved once and every address of it is judged; ``client`` connects to what
was judged. So redirects, odd spellings (``http://2130706433/``) and names that resolve differently the second time are
all judged. The operator allows private addresses with ``jobq worker --allow-private`` (``JOBQ_ALLOW_PRIVATE=1``);
nothing in a job can.
"""

from __future__ import annotations

import ipaddress
import os
import socket

from jobqueue.errors import JobqError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class FetchFailed(JobqError):
    """A download or a scrape did not work; the message says what failed and why."""


class BadUrl(FetchFailed, ValueError):
    """Not an http or https address."""


class AddressRefused(FetchFailed):
    """The host is, or leads to, an address that this worker may not reach."""


class HttpError(FetchFailed):
    """The server answered with a status other than 2xx."""


class TooLarge(FetchFailed):
    """More bytes than the limit allows."""


class TookTooLong(FetchFailed):
    """A connect, read or total time limit was reached."""


# -- which addresses -----------------------------------------------------------------------------------------------


def private_allowed() -> bool:
    return os.environ.get("JOBQ_ALLOW_PRIVATE") == "1"


def is_public(address: IPAddress) -> bool:
    """Return whether an address is of the public internet. An IPv4 address inside an IPv6 one is judged as the IPv4
    address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        return address in _GLOBAL_UNICAST and address.is_global
    # is_global alone lets multicast through; it is False for private, loopback, link-local, CGNAT and reserved
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int) -> list[str]:
    """Return the host's addresses as numbers, all judged. Raises AddressRefused if one of them is refused."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as e:
        raise FetchFailed(f"The host {host!r} was not found: {getattr(e, 'strerror', None) or e}.") from None
    addresses = [str(sockaddr[0]) for *_, sockaddr in found]
    for address in addresses:
        if not private_allowed() and not is_public(ipaddress.ip_address(address)):
            what = host if host == address else f"{host} is the address {address}, which"
            raise AddressRefused(
                f"{what} is not on the public internet; "
                "this worker may reach it only when started with --allow-private."
            )
    return addresses
