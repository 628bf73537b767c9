"""Tries out what every storage must be able to do, on objects of its own that are gone afterwards."""

import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lorahub_registry.infrastructure.observations import Observation, expect, observe

if TYPE_CHECKING:
    from lorahub_registry.infrastructure.storage.blob_store import BlobStore

_CONTENT = secrets.token_bytes((1 << 20) + 17)


def examine_store(store: "BlobStore", folder: str) -> Iterator[Observation]:
    """`folder` is a prefix that nobody else uses, with a slash at its end. Ends early where nothing can be written."""
    one, two = f"{folder}one", f"{folder}two"

    def write() -> str:
        with store.writer(one) as file:
            file.write(_CONTENT)
        expect(store.size(one) == len(_CONTENT), f"{store.size(one)} bytes of {len(_CONTENT)} are there")
        return f"{len(_CONTENT)} bytes"

    def read() -> str:
        expect(b"".join(store.open_range(one, 0, len(_CONTENT))) == _CONTENT, "other bytes came back")
        return "the same bytes came back"

    def read_range() -> str:
        expect(b"".join(store.open_range(one, 1000, 2000)) == _CONTENT[1000:2000], "other bytes than asked for")
        return "bytes 1000 to 1999"

    def listed() -> str:
        found = [stored.key for stored in store.list(folder)]
        expect(found == [one], f"listed were {found}")
        return "one object"

    def move() -> str:
        store.move(one, two)
        expect(store.size(one) is None, "the source is still there")
        expect(b"".join(store.open_range(two, 0, len(_CONTENT))) == _CONTENT, "other bytes at the target")
        return "inside the storage"

    def delete() -> str:
        for key in (one, two):
            store.delete(key)
        expect(store.size(two) is None, "it is still there")
        return "gone"

    for subject, act in {
        "write": write,
        "read": read,
        "range": read_range,
        "list": listed,
        "move": move,
        "delete": delete,
    }.items():
        observation = observe(f"storage {subject}", act)
        yield observation
        if act is write and observation.level != "ok":
            return
