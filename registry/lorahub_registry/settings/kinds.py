"""What a setting may be. Each kind is read strictly; its `ValueError` completes the sentence "it has to be …"."""

import ipaddress
import json
import re
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from lorahub.errors import InvalidConfiguration
from lorahub.protocol.bundles import public_key
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

_LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_HOST = re.compile(
    rf"((\*\.)?{_LABEL}(\.{_LABEL})*|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{{1,5}}))?", re.IGNORECASE | re.ASCII
)

Count = Annotated[int, Field(ge=1)]
"""How many bytes, seconds or pieces: at least one."""
Limit = Annotated[int, Field(ge=0)]
"""0 is none."""
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Patience = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Seconds; 0 is none."""


def _duration(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("longer than nothing")
    return value


def _interval(value: timedelta) -> timedelta:
    if value < timedelta(0):
        raise ValueError("PT0S, or longer")
    return value


def _address(text: str) -> str:
    expected = "an address like https://host or http://host:port/path"
    try:
        parts = urlsplit(text)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ValueError(expected) from None
    is_plain = parts.username is None and not parts.query and not parts.fragment and not re.search(r"\s", text)
    if parts.scheme not in ("http", "https") or not is_whole or not is_plain:
        raise ValueError(expected)
    return text


def _place_to_listen(text: str) -> str:
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 1 << 16 or "/" in host:
        raise ValueError("HOST:PORT, such as 0.0.0.0:9090")
    return text


def _networks(text: str) -> str:
    try:
        if text != "*":
            for entry in text.split(","):
                ipaddress.ip_network(entry.strip())
    except ValueError:
        raise ValueError("addresses and networks with commas between, such as 127.0.0.1,10.0.0.0/8; or *") from None
    return text


def _storage(text: str) -> str:
    scheme, separator, place = text.partition("://")
    if separator and (scheme != "s3" or not place.strip("/")):
        raise ValueError("the path of a folder, or s3://bucket/prefix")
    return text


def _database(text: str) -> str:
    if not text.startswith(("sqlite:///", "postgresql+psycopg://")):
        raise ValueError("sqlite:////path/to/file, or postgresql+psycopg://user:password@host/name")
    return text


def parsed_json(value: Any) -> Any:
    """What a text of the environment says; None where it is no JSON. Anything else is left as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None


def _listed(value: Any) -> Any:
    """A list of texts, as JSON in the environment."""
    if isinstance(value, str):
        value = parsed_json(value)
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ValueError('a JSON list of texts, such as ["one", "two"]')
    return value


def _hosts(entries: list[str]) -> list[str]:
    return [as_host(entry, "host, host:port, or *.host for all below it") for entry in entries]


def _internal_hosts(entries: list[str]) -> list[str]:
    if any(entry.startswith("*") for entry in entries):
        raise ValueError("a list of host or host:port; each internal one is named")
    return [as_host(entry, "host or host:port") for entry in entries]


def _host_names(entries: list[str]) -> list[str]:
    expected = "host, or *.host for all below it"
    if any(":" in entry.rpartition("]")[2] for entry in entries):
        raise ValueError(f"a list of {expected}, without a port")
    return [as_host(entry, expected) for entry in entries]


def as_host(entry: str, expected: str) -> str:
    match = _HOST.fullmatch(entry)
    if match is None or not 0 < int(match["port"] or 1) < 1 << 16:
        raise ValueError(f"a list of {expected}; {entry[:100]!r} is none")
    return entry


def _addresses(entries: list[str]) -> list[str]:
    return [_address(entry) for entry in entries]


def _certificates(path: Path) -> Path:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError:
        raise ValueError("a file of certificates in PEM that can be read") from None
    return path


def _public_key(path: Path) -> Path:
    try:
        public_key(path)
    except (InvalidConfiguration, OSError):
        raise ValueError("a file of an Ed25519 or EC public key in PEM that can be read") from None
    return path


Duration = Annotated[timedelta, AfterValidator(_duration)]
Interval = Annotated[timedelta, AfterValidator(_interval)]
"""How often something is done; PT0S for never."""
Address = Annotated[str, AfterValidator(_address)]
PlaceToListen = Annotated[str, AfterValidator(_place_to_listen)]
Networks = Annotated[str, AfterValidator(_networks)]
Storage = Annotated[str, AfterValidator(_storage)]
DatabaseUrl = Annotated[str, AfterValidator(_database)]
Hosts = Annotated[list[str], NoDecode, BeforeValidator(_listed), AfterValidator(_hosts)]
InternalHosts = Annotated[list[str], NoDecode, BeforeValidator(_listed), AfterValidator(_internal_hosts)]
HostNames = Annotated[list[str], NoDecode, BeforeValidator(_listed), AfterValidator(_host_names)]
Addresses = Annotated[list[str], NoDecode, BeforeValidator(_listed), AfterValidator(_addresses)]
CertificatesFile = Annotated[Path, AfterValidator(_certificates)]
PublicKeyFile = Annotated[Path, AfterValidator(_public_key)]
