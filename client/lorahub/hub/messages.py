"""What a registry answers, parsed once into types. A registry may be hostile: every path and digest is checked here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorahub.errors import Refusal, RegistryFailed
from lorahub.protocol.digests import FileEntry, Sha256, is_commit_id, parse_sha256, revision_digest
from lorahub.protocol.paths import check_tree, parse_path


@dataclass(frozen=True, slots=True)
class Yank:
    reason: str
    at: str
    by: str


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision, whole. `digest` was computed from `files`, not taken from the registry."""

    id: str
    commit: str
    digest: Sha256
    version: str | None
    aliases: tuple[str, ...]
    yanked: Yank | None
    created_at: str
    author: str
    message: str
    files: tuple[FileEntry, ...]
    origin: str | None = None
    """Of a mirror's revision: which commit of which hub it is."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Version:
    name: str
    commit: str
    digest: str
    created_at: str
    author: str
    message: str
    size: int
    aliases: tuple[str, ...]
    yanked: Yank | None


@dataclass(frozen=True, slots=True)
class Alias:
    name: str
    version: str | None
    commit: str
    protected: bool


@dataclass(frozen=True, slots=True)
class Model:
    """One line of a search."""

    id: str
    tags: tuple[str, ...]
    downloads: int
    likes: int
    private: bool
    updated_at: str
    library: str | None


@dataclass(frozen=True, slots=True)
class Publisher:
    """A CI job that a repository trusts: what its identity token says, and in whose name it publishes."""

    id: int
    issuer: str
    claims: Mapping[str, str]
    added_by: str


@dataclass(frozen=True, slots=True)
class Mirror:
    """A repository that follows one of another hub; `commit` is the one that is here, as `version`."""

    id: int
    target: str
    endpoint: str
    repository: str
    revision: str
    private: bool
    waiting: bool
    note: str | None
    """Why it may wait for long."""
    checked_at: str | None
    commit: str | None
    version: str | None
    error: str | None
    has_token: bool
    """For the hub; it is never shown."""
    paused: bool
    failures: int
    """Of the last runs, one after the other."""
    next_try_at: str | None


@dataclass(frozen=True, slots=True)
class Health:
    """`status` is ok, degraded (it answers, and something is missing), unavailable or stopping."""

    status: str
    faults: Mapping[str, str]
    """By what was looked at."""

    @property
    def is_up(self) -> bool:
        return self.status in ("ok", "degraded")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the registry thinks we are."""

    name: str
    organisations: Mapping[str, str]
    """Name → role."""
    token_name: str
    scope: str
    namespace: str | None
    expires_at: str | None


def parse_revision(body: Any) -> Revision:
    """Raises `RegistryFailed` for anything that isn't a revision, or that could write outside its folder."""
    try:
        files = tuple(
            FileEntry(parse_path(file["path"]), _size(file["size"]), parse_sha256(file["sha256"]))
            for file in body["files"]
        )
        check_tree(parse_path(file.path) for file in files)
        digest = revision_digest(files)
        _require(body["digest"] == f"sha256:{digest}", "its digest is not the digest of the files it lists")
        _require(is_commit_id(body["commit"]), "its commit is no commit id")
        return Revision(
            id=str(body["id"]),
            commit=body["commit"],
            digest=digest,
            version=body.get("version"),
            aliases=tuple(body.get("aliases") or ()),
            yanked=parse_yank(body.get("yanked")),
            created_at=str(body["createdAt"]),
            author=str(body["author"]),
            message=str(body["message"]),
            files=files,
            origin=_origin(body.get("origin")),
        )
    except (Refusal, KeyError, TypeError, ValueError) as error:
        raise RegistryFailed(
            f"the registry sent a revision that can't be right: {error}",
            hint="don't use this registry until it is mended",
        ) from None


def _origin(body: Any) -> str | None:
    return f"{body['endpoint']}/{body['repository']}@{body['commit']}" if isinstance(body, dict) else None


def _require(condition: bool, what: str) -> None:  # noqa: FBT001 (reads as a sentence)
    if not condition:
        raise ValueError(what)


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"a size of {value!r}")


def parse_yank(body: Any) -> Yank | None:
    if not isinstance(body, dict):
        return None
    return Yank(str(body.get("reason")), str(body.get("at")), str(body.get("by")))


def parse_version(body: Mapping[str, Any]) -> Version:
    return Version(
        name=str(body["name"]),
        commit=str(body["commit"]),
        digest=str(body["digest"]),
        created_at=str(body["createdAt"]),
        author=str(body["author"]),
        message=str(body["message"]),
        size=int(body["size"]),
        aliases=tuple(body["aliases"]),
        yanked=parse_yank(body["yanked"]),
    )


def parse_alias(body: Mapping[str, Any]) -> Alias:
    return Alias(str(body["name"]), body["version"], str(body["commit"]), bool(body["protected"]))


def parse_model(body: Mapping[str, Any]) -> Model:
    return Model(
        id=str(body["id"]),
        tags=tuple(body.get("tags") or ()),
        downloads=int(body.get("downloads") or 0),
        likes=int(body.get("likes") or 0),
        private=bool(body.get("private")),
        updated_at=str(body.get("lastModified") or body.get("createdAt") or ""),
        library=body.get("library_name"),
    )


def parse_publisher(body: Mapping[str, Any]) -> Publisher:
    return Publisher(int(body["id"]), str(body["issuer"]), dict(body["claims"]), str(body["addedBy"]))


def parse_mirror(body: Mapping[str, Any]) -> Mirror:
    return Mirror(
        id=int(body["id"]),
        target=str(body["target"]),
        endpoint=str(body["endpoint"]),
        repository=str(body["repository"]),
        revision=str(body["revision"]),
        private=bool(body["private"]),
        waiting=bool(body["waiting"]),
        note=body.get("note"),
        checked_at=body["checkedAt"],
        commit=body["commit"],
        version=body["version"],
        error=body["error"],
        has_token=bool(body["hasToken"]),
        paused=bool(body["paused"]),
        failures=int(body["failures"]),
        next_try_at=body["nextTryAt"],
    )


def parse_health(body: Any) -> Health:
    """Raises `RegistryFailed`."""
    try:
        checks = body["checks"].items()
        faults = {str(name): str(check["fault"]) for name, check in checks if not check["ok"]}
        return Health(str(body["status"]), faults)
    except (AttributeError, KeyError, TypeError):
        raise RegistryFailed("the registry doesn't say how it is", hint="does another program answer there?") from None


def parse_identity(body: Mapping[str, Any]) -> Identity:
    token = body["auth"]["accessToken"]
    return Identity(
        name=str(body["name"]),
        organisations={str(org["name"]): str(org.get("roleInOrg")) for org in body.get("orgs", ())},
        token_name=str(token["displayName"]),
        scope=str(token["role"]),
        namespace=token.get("namespace"),
        expires_at=token.get("expiresAt"),
    )
