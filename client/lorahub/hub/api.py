"""The registry's own API, as one user asks it: addresses, and answers read into messages."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from lorahub.errors import InvalidReference
from lorahub.hub import credentials
from lorahub.hub.sources import Sources
from lorahub.hub.transport import Transport
from lorahub.protocol.messages.message import parse
from lorahub.protocol.references import Reference

OWN = "/api/lorahub/v1"

T = TypeVar("T")


class Api:
    """One registry's, with one user's connection to it."""

    def __init__(self, endpoint: str, transport: Transport, sources: Sources) -> None:
        self.endpoint = endpoint
        self.transport = transport
        self.sources = sources

    def ask(self, shape: type[T], what: str, method: str, path: str, *, body: Any = None) -> T:
        """The answer as a `shape`. Raises what the registry refuses, `RegistryFailed` where the answer isn't `what`."""
        return parse(shape, self.transport.json(method, path, body=body), what)

    def rows(self, shape: type[T], what: str, path: str, query: Mapping[str, Any] | None = None) -> Iterator[T]:
        """Those of a list, page after page."""
        return (parse(shape, row, what) for row in self.transport.rows(path, query))

    def do(self, method: str, path: str, *, body: Any = None) -> None:
        """Asks for something whose answer says nothing."""
        self.transport.json(method, path, body=body)

    def reference(self, reference: str | Reference) -> Reference:
        """Raises `InvalidReference` for one that leads to another registry or to the Hub."""
        parsed = self.sources.reference(reference) if isinstance(reference, str) else reference
        if parsed.scheme == "hf":
            raise InvalidReference(
                f"{parsed} is on the Hub; this needs a repository of a lorahub registry",
                hint=f"bring it here: lorahub import {parsed} namespace/name",
            )
        if parsed.host is not None and parsed.host != credentials.host_of(self.endpoint).partition("://")[2]:
            raise InvalidReference(
                f"{parsed} is on another registry than {self.endpoint}", hint=f"add --endpoint https://{parsed.host}"
            )
        return parsed

    def own(self, reference: str | Reference) -> str:
        """The address of a reference's repository in lorahub's own API."""
        return f"{OWN}/models/{self.reference(reference).repository}"


def element(text: str) -> str:
    """As one element of an address."""
    return quote(text, safe="")
