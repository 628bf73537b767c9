"""lorahub.lock: which commit and which bytes each reference of a project stands for, and what it was checked against,
so that CI runs on the same.

    version = 2
    registry = "https://hub.example"      # where references without a host are
    level = "shapes"                      # how deep to look, and what must load them
    runtimes = ["vllm@0.32"]

    [[adapter]]
    reference = "acme/sql@champion"
    commit = "6d…"
    digest = "sha256:…"                   # of all paths and their digests
    base = "acme/llama-7b"
    base_revision = "main"
    base_digest = "weights:…"             # weights, files or layout: the most that is known
"""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorahub.adapters.base_model import BaseLayout
from lorahub.errors import InvalidConfiguration
from lorahub.hub.contents import Contents
from lorahub.hub.project_checks import LEVELS

LOCK = "lorahub.lock"
VERSION = 2
READ_VERSIONS = (1, VERSION)
"""The first had neither what an adapter was checked against, nor where it is."""
_MOST_BYTES = 16 << 20
_ENTRY = re.compile(r"\s*\[\[\s*[\"']?adapter[\"']?\s*\]\]")


@dataclass(frozen=True, slots=True)
class LockedAdapter:
    """`digest` is the revision's: of all paths and their sha256. `base_digest` is as `digest_of_base` has it."""

    reference: str
    commit: str
    digest: str
    base: str | None = None
    base_revision: str | None = None
    base_digest: str | None = None

    @property
    def pinned(self) -> str:
        """The reference to exactly these files."""
        return f"{self.reference.partition('@')[0]}@{self.commit}"


@dataclass(frozen=True, slots=True)
class BrokenEntry:
    """One that can't be read, and what it calls itself."""

    name: str
    fault: InvalidConfiguration


@dataclass(frozen=True, slots=True)
class Lock:
    """`entries` in the order of the file, each with its line."""

    entries: tuple[tuple[int, LockedAdapter | BrokenEntry], ...] = ()
    registry: str | None = None
    level: str | None = None
    runtimes: tuple[str, ...] = ()

    def entry(self, reference: str) -> LockedAdapter | None:
        """The one of this reference."""
        readable = (entry for _, entry in self.entries if isinstance(entry, LockedAdapter))
        return next((entry for entry in readable if entry.reference == reference), None)

    @property
    def adapters(self) -> list[LockedAdapter]:
        """Raises `InvalidConfiguration` for an entry that can't be read."""
        found = []
        for _, entry in self.entries:
            if isinstance(entry, BrokenEntry):
                raise entry.fault
            found.append(entry)
        return found


def is_lock(path: Path) -> bool:
    """Whether a file is one, whatever it is called: by what it says."""
    if path.name == LOCK:
        return path.is_file()
    if not path.is_file() or path.suffix in (".json", ".safetensors", ".gguf") or path.stat().st_size > _MOST_BYTES:
        return False
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        return False
    return isinstance(content.get("version"), int) and isinstance(content.get("adapter", []), list)


def read_lock(path: Path) -> Lock:
    """An entry that can't be read is one of its entries. Raises `InvalidConfiguration` for a file that is no lock."""
    try:
        text = path.read_text("utf-8")
        content = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidConfiguration(
            f"can't read {path}: {error}", hint="write it again: lorahub lock REFERENCE…"
        ) from None
    if content.get("version") not in READ_VERSIONS:
        known = " and ".join(map(str, READ_VERSIONS))
        raise InvalidConfiguration(f"{path} has the version {content.get('version')}; this lorahub reads {known}")
    entries, runtimes = content.get("adapter", []), content.get("runtimes", [])
    if not isinstance(entries, list) or not isinstance(runtimes, list):
        raise InvalidConfiguration(f"{path}: adapter and runtimes are lists")
    level = _text(content, "level", path)
    if level is not None and level not in LEVELS:
        raise InvalidConfiguration(f"{path}: level is {level[:80]!r}; there are {', '.join(LEVELS)}")
    lines = [number for number, line in enumerate(text.split("\n"), 1) if _ENTRY.match(line)]
    placed = lines if len(lines) == len(entries) else [1] * len(entries)
    return Lock(
        tuple((line, _entry(entry, path)) for line, entry in zip(placed, entries, strict=True)),
        _text(content, "registry", path),
        level,
        tuple(str(one) for one in runtimes),
    )


def _entry(entry: Any, path: Path) -> LockedAdapter | BrokenEntry:
    name = str(entry.get("reference", "?"))[:200] if isinstance(entry, dict) else "?"
    try:
        return LockedAdapter(**dict(_texts(entry, path)))
    except InvalidConfiguration as fault:
        return BrokenEntry(name, fault)


def _texts(entry: Any, path: Path) -> Iterator[tuple[str, str]]:
    known = entry if isinstance(entry, dict) else {}
    for key in LockedAdapter.__slots__:
        value = _text(known, key, path)
        if value is None and key in ("reference", "commit", "digest"):
            raise InvalidConfiguration(
                f"{path}: an adapter needs reference, commit and digest", hint="lorahub lock writes it again"
            )
        if value is not None:
            yield key, value


def _text(table: Mapping[str, Any], key: str, path: Path) -> str | None:
    value = table.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidConfiguration(f"{path}: {key} is no text")
    return value


def write_lock(path: Path, lock: Lock) -> None:
    """Sorted by reference, so that a difference in review is a difference in fact."""
    import tomlkit

    document = tomlkit.document()
    document.add(
        tomlkit.comment("Written by `lorahub lock`. Check it in; `lorahub verify` compares it with the registry.")
    )
    document["version"] = VERSION
    document.update({key: value for key in ("registry", "level") if (value := getattr(lock, key)) is not None})
    if lock.runtimes:
        document["runtimes"] = list(lock.runtimes)
    tables = tomlkit.aot()
    for entry in sorted(lock.adapters, key=lambda entry: entry.reference):
        table = tomlkit.table()
        table.update({key: value for key, value in asdict(entry).items() if value is not None})
        tables.append(table)
    document["adapter"] = tables
    part = path.with_name(f".{path.name}.part")
    part.write_text(tomlkit.dumps(document), "utf-8")
    part.replace(path)


def locked(adapters: Iterable[LockedAdapter], **more: Any) -> Lock:
    """A lock of these, as it is to be written."""
    return Lock(tuple((0, one) for one in adapters), **more)


# --- digests ----------------------------------------------------------------------------------------------------------


def digest_of(contents: Contents) -> str:
    """Of all paths of a revision and what its hub says of their bytes: a registry their sha256, the Hub git's sha1 of
    the small ones.
    """
    if contents.revision is not None:
        return f"sha256:{contents.revision.digest}"
    lines = sorted(f"{file.path}\t{file.size}\t{file.key}\n" for file in contents.files)
    listing = "".join(["lorahub-listing-v1\n", *lines])
    return f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"


def digest_of_base(base: BaseLayout) -> str:
    """By the most that is known of it: its weights, the files that hold them, or its layout."""
    return next(digest for kind in ("weights", "files", "layout") if (digest := _digest(base, kind)) is not None)


def is_digest_of(digest: str, base: BaseLayout) -> bool:
    """Whether a digest that was recorded is this base's."""
    return _digest(base, digest.partition(":")[0]) == digest


def _digest(base: BaseLayout, kind: str) -> str | None:
    sums = "".join(f"{one}\n" for one in sorted(base.files.values()))
    known = {
        "weights": base.weights_digest,
        "files": hashlib.sha256(sums.encode()).hexdigest() if sums else None,
        "layout": base.layout_digest,
    }
    found = known.get(kind)
    return None if found is None else f"{kind}:{found}"
