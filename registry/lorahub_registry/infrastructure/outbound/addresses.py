"""Addresses that the registry may call: one strict parser, whose parts are what is connected to, and no second one.

A name is resolved once. Every address that it has must be a public one, unless the operator named the host as internal;
the connection then goes to one of those very addresses, so that a name can't mean another host a moment later.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from lorahub.errors import NotPermitted, Unavailable

_ADDRESS = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::([0-9]{1,5}))?(/[!-~]*)?", re.IGNORECASE | re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PORTS = {"https": 443, "http": 80}
_MOST_CHARACTERS = 8192

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NEVER_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "224.0.0.0/3"),
        *("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2002::/16"),
        *("fc00::/7", "fe80::/9", "ff00::/8"),
    )
]
"""Beside what `is_global` knows, which differs between versions of Python: tunnels and mapped addresses, behind which
any IPv4 address can stand, and what is special in other ways."""


@dataclass(frozen=True, slots=True)
class Address:
    """`host` is lower case: a name, or an IP address in its one canonical form."""

    scheme: str
    host: str
    port: int
    target: str
    """Path and query."""

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"


def parse_address(text: str) -> Address:
    """Raises `NotPermitted` for whatever two parsers could read in two ways: users, backslashes, fragments, spaces,
    anything but ASCII, and IP addresses in other forms than their own.
    """
    match = _ADDRESS.fullmatch(text) if len(text) <= _MOST_CHARACTERS else None
    if match is None or "\\" in text or "#" in text:
        raise NotPermitted(f"{text[:200]!a} is no plain address: http(s)://host[:port]/path")
    scheme, host, port, target = match[1].lower(), match[2].lower(), match[3], match[4] or "/"
    number = _PORTS[scheme] if port is None else int(port)
    if not 0 < number < 1 << 16:
        raise NotPermitted(f"{text[:200]!a} has no port that can be")
    return Address(scheme, _host(host, text), number, target)


def _host(host: str, text: str) -> str:
    try:
        if host.startswith("["):
            return str(ipaddress.IPv6Address(host[1:-1]))
        labels = host.split(".")
        if not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
            if len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels):
                return host
        elif str(ipaddress.IPv4Address(host)) == host:
            return host
    except ValueError:
        pass
    raise NotPermitted(f"{text[:200]!a}: its host is neither a name nor an IP address in its usual form")


def is_named(address: Address, hosts: Sequence[str]) -> bool:
    """Whether the list has it: `host`, `host:port` for a port that isn't the scheme's own, `*.host` for all below."""
    own_port = address.port == _PORTS[address.scheme]
    for entry in hosts:
        host, _, port = entry.lower().rpartition(":") if re.search(r":[0-9]+$", entry) else (entry.lower(), "", "")
        is_host = address.host.endswith(host[1:]) if host.startswith("*.") else host.strip("[]") == address.host
        if is_host and (str(address.port) == port if port else own_port):
            return True
    return False


def resolve(address: Address, *, is_internal: bool) -> list[str]:
    """The IP addresses of its host, each fit to be connected to. Raises `NotPermitted`, `Unavailable`."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"{address.host} has no address: {error}"[:300]) from None
    numbers = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not is_internal and not all(_is_public(number) for number in numbers):
        raise NotPermitted(
            f"{address.host} is not on the public internet",
            hint="if it is meant, its operator names it: LORAHUB_OUTBOUND_INTERNAL",
        )
    return numbers


def _is_public(number: str) -> bool:
    try:
        found: IpAddress = ipaddress.ip_address(number)
    except ValueError:  # with a zone: of this link only
        return False
    is_special = any(found.version == network.version and found in network for network in _NEVER_PUBLIC)
    return found.is_global and not is_special
