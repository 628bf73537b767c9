"""Where a registry wants bytes sent: its answers to `preupload` and to the LFS batch, parsed once into types."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorahub.adapters.strict_json import parse_json
from lorahub.errors import RegistryFailed, error_class
from lorahub.protocol.digests import Sha256
from lorahub.protocol.messages.message import parse
from lorahub.protocol.messages.uploads import LfsActions, LfsBatch, MadeCommit, SentPart, UploadModes

MOST_PARTS = 10_000
"""S3 takes no more."""


@dataclass(frozen=True, slots=True)
class Part:
    number: int
    address: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Target:
    """The whole file goes to `address`; or each of `parts`, and then the list of their tags: `done` are there already.

    `verify` is asked afterwards whether the bytes are the right ones.
    """

    address: str
    parts: tuple[Part, ...]
    done: Mapping[int, str]
    verify: str | None


@dataclass(frozen=True, slots=True)
class Committed:
    """A version that was asked for."""

    version: str
    digest: str
    commit: str
    aliases: tuple[str, ...]
    created: bool


@dataclass(frozen=True, slots=True)
class Mode:
    """How the registry wants a file, and the digest of what it has under this path."""

    is_lfs: bool
    sha256: str | None


def parse_modes(body: Any, paths: Sequence[str]) -> dict[str, Mode]:
    """By path; of all `paths`. Raises `RegistryFailed`."""
    answered = parse(UploadModes, body, "how files are to be sent").files
    said = {mode.path: Mode(mode.upload_mode == "lfs", mode.sha256) for mode in answered}
    if missing := [path for path in paths if path not in said]:
        raise RegistryFailed(f"the registry doesn't say how {missing[0]} is to be sent")
    return {path: said[path] for path in paths}


def parse_targets(body: Any, sizes: Mapping[Sha256, int]) -> dict[Sha256, Target]:
    """Of the files that the registry doesn't have. Raises `RegistryFailed`, and what it refuses."""
    targets: dict[Sha256, Target] = {}
    for one in parse(LfsBatch, body, "where files are to be sent").objects:
        if one.error is not None:
            raise error_class(None, one.error.code)(one.error.message[:2000])
        digest = Sha256(one.oid)
        if digest not in sizes:
            raise RegistryFailed("the registry asks for a file that is none of these")
        if one.actions is not None:
            targets[digest] = _target(one.actions, sizes[digest])
    return targets


def _target(actions: LfsActions, size: int) -> Target:
    header = actions.upload.header or {}
    addresses = {int(key): address for key, address in header.items() if key.isascii() and key.isdecimal()}
    parts = _parts(addresses, header.get("chunk_size", ""), size) if addresses else ()
    sent = parse(list[SentPart], parse_json(header.get("done", "[]").encode(), error=RegistryFailed), "its parts")
    done = {part.part_number: part.etag for part in sent}
    return Target(actions.upload.href, parts, done, None if actions.verify is None else actions.verify.href)


def parse_commit(body: Any) -> Committed:
    """Raises `RegistryFailed`, for a commit that is no version too."""
    made = parse(MadeCommit, body, "a commit")
    if made.version is None or made.digest is None or made.aliases is None or made.created is None:
        raise RegistryFailed("the registry made a commit and no version", hint="is it a lorahub registry?")
    return Committed(made.version, made.digest, made.commit_oid, made.aliases, made.created)


def _parts(addresses: Mapping[int, str], chunk_size: str, size: int) -> tuple[Part, ...]:
    """In order, without a gap. Raises `RegistryFailed`."""
    is_number = chunk_size.isascii() and chunk_size.isdecimal() and len(chunk_size) < 19
    chunk = int(chunk_size) if is_number else 0
    count = math.ceil(size / chunk) if chunk else 0
    if not 0 < count <= MOST_PARTS or any(number not in addresses for number in range(1, count + 1)):
        raise RegistryFailed(f"the registry wants a file of {size} bytes in parts that don't add up to it")
    return tuple(
        Part(number, addresses[number], start := (number - 1) * chunk, min(chunk, size - start))
        for number in range(1, count + 1)
    )
