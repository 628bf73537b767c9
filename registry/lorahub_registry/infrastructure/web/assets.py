"""The pages' own style, script and mark: read once, addressed by their content, kept by browsers for ever."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import brotli

_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    name: str
    media_type: str
    digest: str
    encoded: MappingProxyType[str, bytes]
    """By content coding, `identity` among them."""

    @property
    def address(self) -> str:
        """Without the registry's own address before it."""
        return f"/static/{self.digest}/{self.name}"


@cache
def assets() -> dict[str, Asset]:
    """By name."""
    folder = files("lorahub_registry") / "assets"
    return {entry.name: _read(entry.name, entry.read_bytes()) for entry in folder.iterdir() if _type_of(entry.name)}


def _read(name: str, content: bytes) -> Asset:
    encoded = {"identity": content, "gzip": gzip.compress(content, mtime=0), "br": brotli.compress(content)}
    digest = hashlib.sha256(content).hexdigest()[:16]
    return Asset(name, _type_of(name) or "", digest, MappingProxyType(encoded))


def _type_of(name: str) -> str | None:
    return _TYPES.get(name[name.rfind(".") :])
