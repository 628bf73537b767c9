"""lorahub.lock: which commit and which bytes each reference of a project stands for, so that CI runs on the same."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorahub.errors import InvalidConfiguration

LOCK = "lorahub.lock"
VERSION = 1


@dataclass(frozen=True, slots=True)
class LockedAdapter:
    """`digest` is the revision's: of all paths and their sha256."""

    reference: str
    commit: str
    digest: str
    base: str | None = None

    @property
    def pinned(self) -> str:
        """The reference to exactly these files."""
        return f"{self.reference.partition('@')[0]}@{self.commit}"


def read_lock(path: Path) -> list[LockedAdapter]:
    """Raises `InvalidConfiguration`."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidConfiguration(
            f"can't read {path}: {error}", hint="write it again: lorahub lock REFERENCE…"
        ) from None
    if content.get("version") != VERSION:
        raise InvalidConfiguration(f"{path} has the version {content.get('version')}; this lorahub reads {VERSION}")
    entries = content.get("adapter", [])
    return [_entry(entry, path) for entry in entries if isinstance(entry, dict)]


def _entry(entry: dict[str, Any], path: Path) -> LockedAdapter:
    reference, commit, digest = (entry.get(key) for key in ("reference", "commit", "digest"))
    if not isinstance(reference, str) or not isinstance(commit, str) or not isinstance(digest, str):
        raise InvalidConfiguration(f"{path}: an adapter needs reference, commit and digest")
    base = entry.get("base")
    return LockedAdapter(reference, commit, digest, base if isinstance(base, str) else None)


def write_lock(path: Path, entries: Iterable[LockedAdapter]) -> None:
    """Sorted by reference, so that a difference in review is a difference in fact."""
    import tomlkit

    document = tomlkit.document()
    document.add(
        tomlkit.comment("Written by `lorahub lock`. Check it in; `lorahub verify` compares it with the registry.")
    )
    document["version"] = VERSION
    tables = tomlkit.aot()
    for entry in sorted(entries, key=lambda entry: entry.reference):
        table = tomlkit.table()
        table.update({"reference": entry.reference, "commit": entry.commit, "digest": entry.digest})
        if entry.base:
            table["base"] = entry.base
        tables.append(table)
    document["adapter"] = tables
    part = path.with_name(f".{path.name}.part")
    part.write_text(tomlkit.dumps(document), "utf-8")
    part.replace(path)
