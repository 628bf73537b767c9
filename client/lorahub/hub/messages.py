"""What a registry answers, parsed once into types. A registry may be hostile: every path and digest is checked here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from lorahub.errors import Refusal, RegistryFailed
from lorahub.hub.shapes import read
from lorahub.protocol.digests import FileEntry, Sha256, is_commit_id, parse_sha256, revision_digest
from lorahub.protocol.names import RepositoryName
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


# --- revisions --------------------------------------------------------------------------------------------------------


class _File(TypedDict):
    path: str
    size: int
    sha256: str


class _Origin(TypedDict):
    endpoint: str
    repository: str
    commit: str


class _Revision(TypedDict):
    id: str
    commit: str
    digest: str
    version: str | None
    aliases: tuple[str, ...] | None
    yanked: Yank | None
    createdAt: str
    author: str
    message: str
    files: list[_File]
    origin: _Origin | None


def parse_revision(body: Any) -> Revision:
    """Raises `RegistryFailed` for anything that isn't a revision, or that could write outside its folder."""
    said = read(_Revision, body, "a revision")
    try:
        files = tuple(
            FileEntry(parse_path(file["path"]), _size(file["size"]), parse_sha256(file["sha256"]))
            for file in said["files"]
        )
        check_tree(parse_path(file.path) for file in files)
        digest = revision_digest(files)
        _require(said["digest"] == f"sha256:{digest}", "its digest is not the digest of the files it lists")
        _require(is_commit_id(said["commit"]), "its commit is no commit id")
        name = str(RepositoryName.parse(said["id"]))
    except (Refusal, ValueError) as error:
        raise RegistryFailed(
            f"the registry sent a revision that can't be right: {error}",
            hint="don't use this registry until it is mended",
        ) from None
    return Revision(
        id=name,
        commit=said["commit"],
        digest=digest,
        version=said["version"],
        aliases=said["aliases"] or (),
        yanked=said["yanked"],
        created_at=said["createdAt"],
        author=said["author"],
        message=said["message"],
        files=files,
        origin=_origin(said["origin"]),
    )


def _origin(said: _Origin | None) -> str | None:
    return None if said is None else f"{said['endpoint']}/{said['repository']}@{said['commit']}"


def _require(condition: bool, what: str) -> None:  # noqa: FBT001 (reads as a sentence)
    if not condition:
        raise ValueError(what)


def _size(value: int) -> int:
    _require(value >= 0, f"a size of {value}")
    return value


# --- repositories -----------------------------------------------------------------------------------------------------


class Named(TypedDict):
    """A row of versions, of aliases or of branches."""

    name: str


class Referred(TypedDict):
    reference: str


class Information(TypedDict):
    """The Hub's on a repository, as far as it is shown."""

    id: str
    tags: list[str] | None
    downloads: int | None
    private: bool | None
    cardData: Any | None


class Retention(TypedDict):
    """`drops` are the versions that the next collection lets go of."""

    keep: int | None
    drops: list[str]


class _Model(TypedDict):
    id: str
    tags: tuple[str, ...] | None
    downloads: int | None
    likes: int | None
    private: bool | None
    lastModified: str | None
    createdAt: str | None
    library_name: str | None


def parse_name(body: Any) -> RepositoryName:
    """A repository's, as the registry spells it."""
    said = read(Information, body, "a repository")
    try:
        return RepositoryName.parse(said["id"])
    except Refusal as error:
        raise RegistryFailed(f"the registry sent a repository that can't be right: {error}") from None


def parse_model(body: Any) -> Model:
    said = read(_Model, body, "a repository")
    return Model(
        id=said["id"],
        tags=said["tags"] or (),
        downloads=said["downloads"] or 0,
        likes=said["likes"] or 0,
        private=bool(said["private"]),
        updated_at=said["lastModified"] or said["createdAt"] or "",
        library=said["library_name"],
    )


def parse_version(body: Any) -> Version:
    return read(Version, body, "a version")


def parse_alias(body: Any) -> Alias:
    return read(Alias, body, "an alias")


def parse_publisher(body: Any) -> Publisher:
    return read(Publisher, body, "a publisher")


def parse_mirror(body: Any) -> Mirror:
    return read(Mirror, body, "a mirror")


# --- the registry, and who we are -------------------------------------------------------------------------------------


class Server(TypedDict):
    version: str
    time: str


class _Look(TypedDict):
    ok: bool
    fault: str | None


class _Health(TypedDict):
    status: str
    checks: Mapping[str, _Look]


class _Organisation(TypedDict):
    name: str
    roleInOrg: str | None


class _Token(TypedDict):
    displayName: str
    role: str
    namespace: str | None
    expiresAt: str | None


class _Authentication(TypedDict):
    accessToken: _Token


class _Identity(TypedDict):
    name: str
    orgs: list[_Organisation] | None
    auth: _Authentication


class Audience(TypedDict):
    audience: str


class _NewToken(TypedDict):
    token: str


_TOKEN = re.compile(r"[!-~]{1,4096}")


def parse_health(body: Any) -> Health:
    said = read(_Health, body, "its health")
    faults = {name: look["fault"] or "not ok" for name, look in said["checks"].items() if not look["ok"]}
    return Health(said["status"], faults)


def parse_identity(body: Any) -> Identity:
    said = read(_Identity, body, "who we are")
    token = said["auth"]["accessToken"]
    return Identity(
        name=said["name"],
        organisations={org["name"]: org["roleInOrg"] or "" for org in said["orgs"] or ()},
        token_name=token["displayName"],
        scope=token["role"],
        namespace=token["namespace"],
        expires_at=token["expiresAt"],
    )


def parse_token(body: Any) -> str:
    """One that a header can hold."""
    token = read(_NewToken, body, "a token")["token"]
    if _TOKEN.fullmatch(token) is None:
        raise RegistryFailed("the registry sent a token that can't be one")
    return token


# --- bases, checks, merges --------------------------------------------------------------------------------------------


class Place(TypedDict):
    """Where bytes are, among what one may read."""

    reference: str
    path: str
    base: str | None


class KnownBase(TypedDict):
    """Without its layout."""

    name: str
    revision: str | None
    architecture: str | None
    parameters: int
    weights_digest: str | None
    adapters: int | None


class BaseDocument(TypedDict):
    names: list[str] | None
    revision: str | None
    layout: str
    layout_digest: str | None
    files: Mapping[str, str] | None
    config: Mapping[str, Any] | None


class _Finding(TypedDict):
    rule: str


class _Losses(TypedDict):
    first: Any | None
    last: Any | None


class _Run(TypedDict):
    steps: int | None
    loss: _Losses | None


class _Rows(TypedDict):
    rows: int | None


class _Data(TypedDict):
    train: _Rows | None


class _Training(TypedDict):
    run: _Run | None
    data: _Data | None


class _Facts(TypedDict):
    method: str
    ranks: list[int]
    targets: list[str]
    training: _Training | None


class CheckedRevision(TypedDict):
    """The registry's verdict on an adapter, with its measured facts."""

    base: str | None
    verdict: str
    findings: list[_Finding]
    facts: _Facts


class Checks(TypedDict):
    checks: list[CheckedRevision]


class StatedSignature(TypedDict):
    signed: bool
    key: str | None
    coversFiles: bool
    differing: list[str]
    fault: str | None


class Statistics(TypedDict):
    status: str
    note: str | None
    statistics: Mapping[str, Any] | None


class PlannedMerge(TypedDict):
    digest: str
    files: Mapping[str, int]


class MergeJob(TypedDict):
    id: str
    status: str
    reference: str | None
    bytes: int
    done: int
    error: str | None
    note: str | None


class _TakenRepository(TypedDict):
    id: str
    commits: int
    references: int


class TakenBundle(TypedDict):
    bundle: str
    repositories: list[_TakenRepository]
