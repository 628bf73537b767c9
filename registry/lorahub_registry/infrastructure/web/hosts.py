"""The names by which this registry is asked. A page of somebody else's whose name leads here (DNS rebinding) is no
origin of ours, and no answer of ours speaks of an address that a stranger made up.

An IP address is what it says, so any is taken: what a browser calls by its address is that address.
"""

import re
import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from lorahub.errors import UnknownHost

from lorahub_registry.settings import Settings

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]]+)(?::[0-9]*)?", re.IGNORECASE | re.ASCII)
_OWN = ("localhost", "*.localhost")


class Hosts:
    """`bound` is the host that the process was told to listen on."""

    def __init__(self, settings: Settings, bound: str | None = None) -> None:
        machine = socket.gethostname()
        public = urlsplit(settings.public_url or "").hostname
        names = [*_OWN, machine, f"{machine}.local", public, bound, *settings.allowed_hosts]
        self._names = {name.lower().strip("[]") for name in names if name}

    def require(self, sent: list[str]) -> None:
        """`sent` are a request's Host headers; none is a program's that speaks HTTP/1.0. Raises `UnknownHost`."""
        for host in sent:
            if not self._is_known(host):
                raise UnknownHost(
                    f"this registry isn't known as {host[:200]!a}",
                    hint="who runs it names its address in LORAHUB_PUBLIC_URL, or further names in "
                    "LORAHUB_ALLOWED_HOSTS, such as '[\"hub.example.com\"]'",
                )

    def _is_known(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].lower().strip("[]").removesuffix(".")
        return name in self._names or _is_address(name) or any(f"*.{above}" in self._names for above in _above(name))


def _is_address(name: str) -> bool:
    try:
        return bool(ip_address(name))
    except ValueError:
        return False


def _above(name: str) -> list[str]:
    """`a.b.c` is below `b.c` and `c`."""
    labels = name.split(".")
    return [".".join(labels[start:]) for start in range(1, len(labels))]
