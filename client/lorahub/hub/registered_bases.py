"""`hub.bases`: the base models that a registry knows by name."""

from urllib.parse import quote

from lorahub.adapters.base_model import BaseLayout
from lorahub.errors import InvalidReference, NotFound
from lorahub.hub.api import OWN, Api
from lorahub.hub.bases import base_from_document, document_of
from lorahub.protocol.messages.bases import AdapterOfBase, CountedBase, KnownBase

_BASES = f"{OWN}/bases"


class RegisteredBases:
    def __init__(self, api: Api) -> None:
        self._api = api

    def add(self, base: BaseLayout, name: str, *, revision: str | None = None) -> KnownBase:
        """Registers a base by its layout, and its weights where they were hashed, under this name.

        Raises `NotPermitted`, `InvalidBaseModel`, `AlreadyExists` where the revision is known with another layout.
        """
        document = document_of(base) | {"names": [name], "revision": revision or base.revision}
        return self._api.ask(KnownBase, "a base model", "POST", _BASES, body=document)

    def search(self, text: str | None = None) -> list[CountedBase]:
        """Those whose name has `text` in it, without their layouts.

        >>> [base.name for base in hub.bases.search("llama")]
        ['acme/llama']
        """
        return list(self._api.rows(CountedBase, "a base model", _BASES, {"search": text} if text else None))

    def find(self, name: str) -> BaseLayout | None:
        """Whole, with its layout; None where no base has this name.

        >>> hub.bases.find("acme/llama").parameters
        512
        """
        try:
            return base_from_document(self._api.transport.json("GET", f"{_BASES}/{quote(name)}"))
        except NotFound:
            return None

    def adapters(self, base: str) -> list[AdapterOfBase]:
        """The newest version of every adapter that you may see and that names this base.

        >>> sorted(adapter.reference for adapter in hub.bases.adapters("acme/llama"))[-1]
        'acme/wrong'
        """
        address = f"{_BASES}/{quote(self._unrevised(base))}/adapters"
        return list(self._api.rows(AdapterOfBase, "an adapter", address))

    def _unrevised(self, base: str) -> str:
        """A base's name as a registry knows it: of its own repository or the Hub's, or any other."""
        try:
            return str(self._api.sources.reference(base).repository)
        except InvalidReference:
            return base.partition("@")[0]
