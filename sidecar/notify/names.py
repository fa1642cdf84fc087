"""The addresses of an Alertmanager's host name: where there are several, each is an Alertmanager of its own."""

import asyncio
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit


async def addresses(host: str) -> tuple[str, ...]:
    """The addresses of a name, sorted; empty where they cannot be found out now."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return of_one_family((family, str(address[0])) for family, *_, address in found)


def of_one_family(found: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    """Of (family, address) those of the family that has more, IPv4 if both have as many: a host may be in both."""
    families: dict[int, set[str]] = {socket.AF_INET: set()}
    for family, address in found:
        families.setdefault(family, set()).add(address)
    most = max(families.values(), key=len)
    return tuple(sorted(most))


def at_address(url: str, address: str) -> str:
    """The URL with an address in the place of the host's name."""
    parts = urlsplit(url)
    before, at, _ = parts.netloc.rpartition("@")
    port = f":{parts.port}" if parts.port is not None else ""
    literal = f"[{address}]" if ":" in address else address
    return urlunsplit(parts._replace(netloc=f"{before}{at}{literal}{port}"))
