"""How often an address may send a wrong secret: ten at once, then one more every six seconds."""

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network, ip_address

FAILURES = 10
"""Wrong ones that one address may send at once; after that, one more every `EVERY_SECONDS`."""
EVERY_SECONDS = 6.0
MOST_ADDRESSES = 1024
PREFIX = 64
"""Of an IPv6 address: what lies behind it belongs to one host or one customer."""


class Guesses:
    """Counts them. Lives as long as the server. `monotonic` is in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._full_at: OrderedDict[str, float] = OrderedDict()  # address -> when it has all its failures back

    def wait_seconds(self, address: str) -> float:
        """How long `address` has to wait before another secret of its is looked at; 0 or less: not at all."""
        now = self._monotonic()
        return max(now, self._full_at.get(address, now)) + EVERY_SECONDS - (now + FAILURES * EVERY_SECONDS)

    def failed(self, address: str) -> bool:
        """Count a wrong one; whether that was the last for now."""
        now = self._monotonic()
        full_at = max(now, self._full_at.get(address, now)) + EVERY_SECONDS
        self._full_at[address] = full_at
        self._full_at.move_to_end(address)
        if len(self._full_at) > MOST_ADDRESSES:
            self._full_at.popitem(last=False)
        return full_at + EVERY_SECONDS > now + FAILURES * EVERY_SECONDS


def address_of(remote: str) -> str:
    """What `remote` (of a request) counts as: its address, of IPv6 the network of its host."""
    try:
        address = ip_address(remote)
    except ValueError:
        return remote
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(IPv6Network((int(address), PREFIX), strict=False))
    return str(address)
