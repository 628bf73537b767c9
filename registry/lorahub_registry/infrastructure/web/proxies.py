"""Who stands before us, and is believed when it says for whom it asks."""

import functools
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network

from lorahub_registry.settings import Settings


class Proxies:
    """The addresses of `LORAHUB_TRUSTED_PROXIES`."""

    def __init__(self, settings: Settings) -> None:
        named = settings.trusted_proxies
        self._are_all = named == "*"
        entries: Iterable[str] = [] if named is None or self._are_all else named.split(",")
        self._networks = [ip_network(entry.strip()) for entry in entries]
        self._known = functools.lru_cache(maxsize=1024)(self._look_up)

    def __contains__(self, host: str) -> bool:
        return self._are_all or self._known(host)

    def _look_up(self, host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def subscriber(host: str | None) -> str:
    """What one subscriber of a network has: an IPv4 address, or the /64 of an IPv6 one; `-` for what is no address."""
    try:
        address = ip_address(host or "")
    except ValueError:
        return "-"
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))
    return str(address)


def is_near(host: str) -> bool:
    """On this machine, or on a private network."""
    try:
        return ip_address(host).is_private
    except ValueError:
        return False
