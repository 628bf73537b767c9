"""One revision as it may be used: a registry may be hostile, so every path and digest of its answer is checked here."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lorahub.errors import Refusal, RegistryFailed
from lorahub.hub.showing import html_line, html_table, size_text, time_text
from lorahub.protocol.digests import FileEntry, Sha256, is_commit_id, parse_sha256, revision_digest
from lorahub.protocol.messages.message import parse
from lorahub.protocol.messages.revisions import StoredFile, StoredRevision, Version, Yank
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import check_tree, parse_path


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision, whole. `digest` was computed from `files`, not taken from the registry."""

    id: str
    commit: str
    digest: Sha256
    version: str | None
    aliases: tuple[str, ...]
    yanked: Yank | None
    created_at: datetime
    author: str
    message: str
    files: tuple[FileEntry, ...]
    origin: str | None = None
    """Of a mirror's revision: which commit of which hub it is."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def _repr_html_(self) -> str:
        """In a notebook: what it is, and its files."""
        name = f"{self.id}@{self.version or self.commit[:12]}"
        names = f" ({', '.join(self.aliases)})" if self.aliases else ""
        yanked = f"; yanked: {self.yanked.reason}" if self.yanked else ""
        said = f"{name}{names}: {size_text(self.size)}, by {self.author}, {time_text(self.created_at)}{yanked}"
        files = ((file.path, size_text(file.size), file.sha256[:12]) for file in self.files)
        return html_line(said) + html_line(self.message) + html_table(["file", "size", "sha256"], files)


class Versions(list[Version]):
    """Newest first; in a notebook, a table."""

    def _repr_html_(self) -> str:
        rows = (
            (
                one.name,
                size_text(one.size),
                time_text(one.created_at),
                ", ".join(one.aliases),
                f"yanked: {one.yanked.reason}" if one.yanked else one.message,
            )
            for one in self
        )
        return html_table(["version", "size", "when", "aliases", "what"], rows)


def parse_revision(body: Any) -> Revision:
    """Raises `RegistryFailed` for anything that isn't a revision, or that could write outside its folder."""
    said = parse(StoredRevision, body, "a revision")
    try:
        files = tuple(_entry(file) for file in said.files)
        check_tree(parse_path(file.path) for file in files)
        digest = revision_digest(files)
        _require(said.digest == f"sha256:{digest}", "its digest is not the digest of the files it lists")
        _require(is_commit_id(said.commit), "its commit is no commit id")
        name = str(RepositoryName.parse(said.id))
    except (Refusal, ValueError) as error:
        raise RegistryFailed(
            f"the registry sent a revision that can't be right: {error}",
            hint="don't use this registry until it is mended",
        ) from None
    origin = said.origin
    return Revision(
        id=name,
        commit=said.commit,
        digest=digest,
        version=said.version,
        aliases=said.aliases,
        yanked=said.yanked,
        created_at=said.created_at,
        author=said.author,
        message=said.message,
        files=files,
        origin=None if origin is None else f"{origin.endpoint}/{origin.repository}@{origin.commit}",
    )


def _entry(file: StoredFile) -> FileEntry:
    _require(file.size >= 0, f"a size of {file.size}")
    return FileEntry(parse_path(file.path), file.size, parse_sha256(file.sha256))


def _require(condition: bool, what: str) -> None:  # noqa: FBT001 (reads as a sentence)
    if not condition:
        raise ValueError(what)
