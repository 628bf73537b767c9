"""Every table on one page. A row is written once and then read; what changes is named in the comments.

Times are UTC with microseconds. Text that a client sent is bounded before it arrives here.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    exists,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column
from sqlalchemy.types import TypeEngine

BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows only in an INTEGER PRIMARY KEY


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware UTC time, also on SQLite, which stores none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=UTC)


class Terms(TypeDecorator[list[str]]):
    """Texts that are looked up whole: an array on PostgreSQL, on SQLite words for its full-text index."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else ARRAY(Text()))

    def process_bind_param(self, value: list[str] | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name != "sqlite" else " ".join(map(as_word, value))

    def process_result_value(self, value: Any, dialect: Dialect) -> list[str] | None:
        return value if value is None or dialect.name != "sqlite" else [as_term(word) for word in value.split()]


def as_word(term: str) -> str:
    """What SQLite's `hex()` makes of it: one word to every tokenizer, whatever is in it."""
    return term.encode().hex().upper()


def as_term(word: str) -> str:
    """The term that `as_word` made this word of."""
    return bytes.fromhex(word).decode()


class Table(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """For Alembic: full-text indexes, which are tables on SQLite, are made and altered by migrations by hand."""
    return kind not in ("table", "index") or name is None or not name.startswith("search_")


# --- who --------------------------------------------------------------------------------------------------------------


class Account(Table):
    """A user or an organisation: whoever can own a namespace."""

    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(96))
    name_key: Mapped[str] = mapped_column(String(96), unique=True)  # similarity_key(name): confusable names are one
    kind: Mapped[str] = mapped_column(String(16))  # user | organisation
    fullname: Mapped[str] = mapped_column(String(200), default="")
    email: Mapped[str | None] = mapped_column(String(320))
    is_admin: Mapped[bool] = mapped_column(Boolean, default=False)  # of the whole registry
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    stored_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")  # of its NamespaceBlobs
    byte_quota: Mapped[int | None] = mapped_column(BigInteger)  # null: the registry's; 0: none
    repository_quota: Mapped[int | None] = mapped_column(Integer)  # the same
    made_by: Mapped[int | None] = mapped_column(BigInteger, index=True)  # of an organisation: whose quota it counts for
    upstream: Mapped[str | None] = mapped_column(String(32))  # for whose repositories it was made; null: nobody's


class NamespaceBlob(Table):
    """The distinct blobs that the commits of a namespace refer to: what its quota counts. fsck proves it."""

    __tablename__ = "namespace_blobs"
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    blob_sha256: Mapped[str] = mapped_column(
        ForeignKey("blobs.sha256", ondelete="RESTRICT"), primary_key=True, index=True
    )


class Membership(Table):
    __tablename__ = "memberships"
    organisation_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(String(16))  # read | write | admin
    created_at: Mapped[datetime]


class Token(Table):
    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    name: Mapped[str] = mapped_column(String(96))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)  # of the token, which is shown once and not stored
    scope: Mapped[str] = mapped_column(String(16))  # read | write | admin
    namespace: Mapped[str | None] = mapped_column(
        String(96)
    )  # the one namespace it is good for; null: all of its owner's
    repository_id: Mapped[int | None] = mapped_column(
        ForeignKey("repositories.id", ondelete="CASCADE"), index=True
    )  # the one repository it may write to; of a trusted publisher
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # changes, at most once a minute
    revoked_at: Mapped[datetime | None]


class WebSession(Table):
    """A browser that somebody logged in with a token: it may what the token may, as long as the token may."""

    __tablename__ = "web_sessions"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)  # of the cookie
    token_id: Mapped[int] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class AuditEvent(Table):
    """One row for each change, written in the change's own transaction. A trigger refuses to change it, and to delete
    it unless an `AuditForgotten` says that it goes.
    """

    __tablename__ = "audit_events"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(String(96))  # account name: the row outlives the account
    token_id: Mapped[int | None] = mapped_column(BigId)
    action: Mapped[str] = mapped_column(String(64), index=True)  # repository.create, version.yank, …
    subject: Mapped[str] = mapped_column(String(300), index=True)
    details: Mapped[dict[str, Any]]
    request_id: Mapped[str | None] = mapped_column(String(128))
    address: Mapped[str | None] = mapped_column(String(64))  # of the client; null where there was none


class AuditSeal(Table):
    """Events up to one, from behind the seal before, under a digest that follows from them and from that seal's. As
    unchangeable as they are.
    """

    __tablename__ = "audit_seals"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)  # 1, 2, 3 …
    last_event_id: Mapped[int] = mapped_column(BigId, unique=True)
    events: Mapped[int] = mapped_column(Integer)  # how many
    digest: Mapped[str] = mapped_column(String(64))
    sealed_at: Mapped[datetime]


class AuditForgotten(Table):
    """All events up to one were deleted, whose seals stay. As unchangeable as those."""

    __tablename__ = "audit_forgotten"
    last_event_id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    before: Mapped[datetime]  # they were older
    actor: Mapped[str] = mapped_column(String(96))
    at: Mapped[datetime]


class TrustedPublisher(Table):
    """Who may publish to a repository without a secret: a CI job whose identity token makes these claims."""

    __tablename__ = "trusted_publishers"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))  # whose trust it is, and in whose name it acts
    issuer: Mapped[str] = mapped_column(String(300))
    claims: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class SpentIdentity(Table):
    """An identity token that was exchanged: the key makes sure that it is once. Kept until it has expired anyway."""

    __tablename__ = "spent_identities"
    issuer: Mapped[str] = mapped_column(String(300), primary_key=True)
    jti: Mapped[str] = mapped_column(String(300), primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)


# --- what -------------------------------------------------------------------------------------------------------------


_SORTED_BY = ("created_at", "updated_at", "downloads", "likes", "trending")
_IS_GATED = text("gated IS NOT NULL")
_IS_WANTED = text("status = 'wanted'")
_IS_FRESH = text("number IS NULL")


class Repository(Table):
    __tablename__ = "repositories"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    public_id: Mapped[str] = mapped_column(String(24), unique=True)
    namespace_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    namespace: Mapped[str] = mapped_column(String(96))
    name: Mapped[str] = mapped_column(String(96))
    name_key: Mapped[str] = mapped_column(String(200), unique=True)  # similarity_key of namespace/name
    is_private: Mapped[bool]
    gated: Mapped[str | None] = mapped_column(String(16))  # null | auto | manual
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    next_version: Mapped[int] = mapped_column(Integer, default=1)  # never goes back
    downloads: Mapped[int] = mapped_column(BigInteger, default=0)
    likes: Mapped[int] = mapped_column(Integer, default=0)
    trending: Mapped[float] = mapped_column(Double, default=0, server_default="0")  # see catalog.trending
    quarantined_at: Mapped[datetime | None]  # changes: quarantine and its undo
    quarantined_by: Mapped[str | None] = mapped_column(String(96))
    quarantine_reason: Mapped[str | None] = mapped_column(Text)
    upstream: Mapped[str | None] = mapped_column(String(32))  # whose it is; null: this registry's own
    kept_at: Mapped[datetime | None]  # of an upstream: since when an administrator keeps its files; changes

    __table_args__ = (
        *(Index(f"ix_repositories_by_{key}", key, "id") for key in _SORTED_BY),  # a page is a range of one of these
        Index("ix_repositories_gated", "id", postgresql_where=_IS_GATED, sqlite_where=_IS_GATED),
    )


class RetiredName(Table):
    """A name that was given up. It is never given out again; if the repository lives on, it leads there."""

    __tablename__ = "retired_names"
    name_key: Mapped[str] = mapped_column(String(200), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    repository_id: Mapped[int | None] = mapped_column(ForeignKey("repositories.id", ondelete="SET NULL"), index=True)
    retired_at: Mapped[datetime]


class BlockedDigest(Table):
    """Bytes that an administrator took out of circulation, whether they are here or not."""

    __tablename__ = "blocked_digests"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    reason: Mapped[str] = mapped_column(Text)
    by: Mapped[str] = mapped_column(String(96))
    at: Mapped[datetime]


class Blob(Table):
    """Verified bytes. `storage_key` is unique to one upload, so a collected blob can come back under another key."""

    __tablename__ = "blobs"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    git_sha1: Mapped[str] = mapped_column(String(40))
    storage_key: Mapped[str] = mapped_column(String(200), unique=True)
    inspection: Mapped[dict[str, Any]]  # what one reading of the bytes found: see blobs.inspection
    created_at: Mapped[datetime] = mapped_column(index=True)
    damaged_at: Mapped[datetime | None]  # when the stored bytes were last found to be others; changes
    verified_at: Mapped[datetime | None] = mapped_column(index=True)  # when they were last read and hashed; changes
    is_blocked: Mapped[bool] = column_property(  # no column: asked with every row, so that nothing forgets to
        exists().where(BlockedDigest.sha256 == sha256).correlate_except(BlockedDigest)
    )


class CollectionHold(Table):
    """One row: until when no blob may be collected. A collector locks it, so that who holds it waits for him."""

    __tablename__ = "collection_hold"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    until: Mapped[datetime | None]  # changes


class Upload(Table):
    """One attempt to bring one object in, written before the first byte: the proof that its account holds the bytes.

    Open while `blob_sha256` is null; then a lease on the blob until `expires_at`. Undone by id only.
    No object is ever stored without a row here or in `blobs`, so whatever has neither is garbage, whatever its age.
    """

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # random; part of the staging key
    repository_id: Mapped[int | None] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"))
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    declared_sha256: Mapped[str] = mapped_column(String(64), index=True)
    declared_size: Mapped[int] = mapped_column(BigInteger)
    blob_sha256: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)

    __table_args__ = (  # a repository may have many open: none of them is looked at but the one that is meant
        Index("ix_uploads_declared", "repository_id", "declared_sha256"),
        Index("ix_uploads_leased", "repository_id", "blob_sha256"),
    )


class Reservation(Table):
    """Room that an account's quotas keep for what is on its way, by what takes it: an upload's id, a Xet session's, or
    the sha256 of a leased blob that no commit of the namespace has. Whatever forgets to give it back, time does.
    """

    __tablename__ = "reservations"
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(96), primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)  # of the namespace's quota
    uploads: Mapped[int] = mapped_column(Integer)  # of the uploader's: 1 while its bytes have yet to come, or 0
    expires_at: Mapped[datetime]  # changes

    __table_args__ = (Index("ix_reservations_expiry", "account_id", "expires_at"),)


class ReservedTotal(Table):
    """The sums of an account's reservations, also of those that expired and aren't given back yet. fsck proves it."""

    __tablename__ = "reserved_totals"
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)  # changes
    uploads: Mapped[int] = mapped_column(Integer)  # changes


class XetSession(Table):
    """What came in at one Xet address, and what it became. All of it changes."""

    __tablename__ = "xet_sessions"
    id: Mapped[str] = mapped_column(String(96), primary_key=True)  # the folder of its xorbs
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    promised_bytes: Mapped[int] = mapped_column(BigInteger)  # of its xorbs
    received_bytes: Mapped[int] = mapped_column(BigInteger)  # of those that a shard used, and that were here
    taken_bytes: Mapped[int] = mapped_column(BigInteger)  # of the files that were made of them
    unpacked_bytes: Mapped[int] = mapped_column(BigInteger)  # the work that this was, and what failed
    expires_at: Mapped[datetime] = mapped_column(index=True)


class XetXorb(Table):
    """A xorb that its session may send, written before its first byte."""

    __tablename__ = "xet_xorbs"
    session_id: Mapped[str] = mapped_column(ForeignKey("xet_sessions.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    is_received: Mapped[bool]  # changes: a shard used it, and it was here


class Commit(Table):
    __tablename__ = "commits"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"), index=True)
    parent_id: Mapped[str | None] = mapped_column(String(40))
    depth: Mapped[int] = mapped_column(Integer)  # number of ancestors
    digest: Mapped[str] = mapped_column(String(64), index=True)  # revision_digest of the files
    title: Mapped[str] = mapped_column(Text)
    message: Mapped[str] = mapped_column(Text)
    author_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    author: Mapped[str] = mapped_column(String(96))
    created_at: Mapped[datetime]
    request_key: Mapped[str | None] = mapped_column(String(64))  # of the request that made it; a retry finds it again
    request_digest: Mapped[str | None] = mapped_column(String(64))  # of what it asked for; another isn't a retry
    dropped_at: Mapped[datetime | None]  # by retention: its files are gone, the row stays for those that follow it
    size: Mapped[int | None] = mapped_column(BigInteger)  # bytes of its files; None: an earlier version wrote it

    __table_args__ = (
        UniqueConstraint("repository_id", "request_key", name="uq_commits_request"),
        Index("ix_commits_repository_digest", "repository_id", "digest"),
    )


class RetentionPolicy(Table):
    """How many versions a repository keeps, where it doesn't keep all."""

    __tablename__ = "retention_policies"
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True)
    keep_versions: Mapped[int] = mapped_column(Integer)
    set_at: Mapped[datetime]


class CommitFile(Table):
    __tablename__ = "commit_files"
    commit_id: Mapped[str] = mapped_column(ForeignKey("commits.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(1024), primary_key=True)
    blob_sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"), index=True)
    is_lfs: Mapped[bool]
    changed_in: Mapped[str] = mapped_column(String(40))  # the commit that last changed this path


class CommitFacts(Table):
    """What the catalog says of a commit: derived from its files, and derivable again at any time."""

    __tablename__ = "commit_facts"
    commit_id: Mapped[str] = mapped_column(ForeignKey("commits.id", ondelete="CASCADE"), primary_key=True)
    tags: Mapped[list[str]]
    card_data: Mapped[dict[str, Any] | None]
    library_name: Mapped[str | None] = mapped_column(String(64))
    pipeline_tag: Mapped[str | None] = mapped_column(String(64))
    safetensors: Mapped[dict[str, Any] | None]
    config: Mapped[dict[str, Any] | None]


class CatalogEntry(Table):
    """What a search can ask of a repository: of the head of `main` and of its names, rewritten when those change.

    The indexes `search_terms` and `search_names` are made by migrations by hand: GIN on PostgreSQL; on SQLite FTS5
    tables, which follow this one by triggers.
    """

    __tablename__ = "catalog_entries"
    repository_id: Mapped[int] = mapped_column(
        ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    name: Mapped[str] = mapped_column(String(200))  # namespace/name in lower case
    terms: Mapped[list[str]] = mapped_column(Terms)  # tag:…, base:…, alias:…, and the labels of adapter_labels
    least_rank: Mapped[int | None] = mapped_column(Integer)
    most_rank: Mapped[int | None] = mapped_column(Integer)
    parameters: Mapped[int | None] = mapped_column(BigInteger, index=True)

    __table_args__ = (Index("ix_catalog_entries_ranks", "most_rank", "least_rank"),)


class RepositoryTag(Table):
    """Nobody writes or reads these any more; servers of 0.1 that still run do. To be dropped."""

    __tablename__ = "repository_tags"
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(300), primary_key=True)

    __table_args__ = (Index("ix_repository_tags_tag", "tag", "repository_id"),)


class Reference(Table):
    """A name for a commit. Branches and aliases move; tags and versions don't; `target` changes only with a RefMove."""

    __tablename__ = "refs"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"))
    space: Mapped[str] = mapped_column(String(8))  # heads | tags: tags, versions and aliases share one name space
    kind: Mapped[str] = mapped_column(String(16))  # branch | tag | version | alias
    name: Mapped[str] = mapped_column(String(128))
    commit_id: Mapped[str] = mapped_column(ForeignKey("commits.id"), index=True)
    message: Mapped[str] = mapped_column(Text, default="")
    is_protected: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    yanked_at: Mapped[datetime | None]  # changes: yank and its undo
    yanked_by: Mapped[str | None] = mapped_column(String(96))
    yank_reason: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (UniqueConstraint("repository_id", "space", "name", name="uq_refs_name"),)


class RefMove(Table):
    __tablename__ = "ref_moves"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(128))
    from_commit: Mapped[str | None] = mapped_column(String(40))
    to_commit: Mapped[str | None] = mapped_column(String(40))
    by: Mapped[str] = mapped_column(String(96))
    at: Mapped[datetime]


# --- who may, who did -------------------------------------------------------------------------------------------------


class AccessRequest(Table):
    """One user's standing with one gated repository."""

    __tablename__ = "access_requests"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"))
    user_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    status: Mapped[str] = mapped_column(String(16))  # pending | accepted | rejected; changes
    rejection_reason: Mapped[str | None] = mapped_column(Text)
    requested_at: Mapped[datetime]

    __table_args__ = (UniqueConstraint("repository_id", "user_id", name="uq_access_requests_user"),)


class Like(Table):
    __tablename__ = "likes"
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True, index=True)
    created_at: Mapped[datetime]


class DownloadsPerDay(Table):
    __tablename__ = "downloads_per_day"
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)  # 2026-11-24, UTC
    count: Mapped[int] = mapped_column(BigInteger)


# --- what fits what ---------------------------------------------------------------------------------------------------


class BaseModel(Table):
    """A base model by its digests. A row is a fact: it never changes, whoever registered it."""

    __tablename__ = "base_models"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    identity: Mapped[str] = mapped_column(String(64), unique=True)  # sha256 over layout, weights and files
    layout_digest: Mapped[str] = mapped_column(String(64), index=True)
    weights_digest: Mapped[str | None] = mapped_column(String(64), index=True)
    layout: Mapped[bytes] = mapped_column(LargeBinary)  # zlib of the canonical text
    files: Mapped[dict[str, Any]]
    config: Mapped[dict[str, Any]]
    architecture: Mapped[str | None] = mapped_column(String(128))
    parameters: Mapped[int] = mapped_column(BigInteger)
    tensors: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime]


class BaseName(Table):
    """What a base is called, and at which revision. A name and revision mean one base for ever."""

    __tablename__ = "base_names"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("base_models.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    name_key: Mapped[str] = mapped_column(String(200))  # lower case
    revision: Mapped[str] = mapped_column(String(64), default="")
    added_by: Mapped[str] = mapped_column(String(96))
    added_at: Mapped[datetime]
    judged_at: Mapped[datetime | None] = mapped_column()  # when what names it was judged against it; changes once
    judge_fault: Mapped[str | None] = mapped_column(Text)  # why it wasn't

    __table_args__ = (
        UniqueConstraint("name_key", "revision", name="uq_base_names_name"),
        Index("ix_base_names_judged_at", "judged_at"),
    )


class MovedVerdict(Table):
    """What the registration of a base made of the verdict on a commit that names it."""

    __tablename__ = "moved_verdicts"
    base_name_id: Mapped[int] = mapped_column(ForeignKey("base_names.id"), primary_key=True)
    commit_id: Mapped[str] = mapped_column(ForeignKey("commits.id", ondelete="CASCADE"), primary_key=True, index=True)
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"), index=True)
    version: Mapped[str | None] = mapped_column(String(32))
    before: Mapped[str] = mapped_column(String(16))  # against what the name meant then, or when it was pushed
    after: Mapped[str] = mapped_column(String(16))
    at: Mapped[datetime]


class AdapterFacts(Table):
    """What was measured of a commit that is an adapter, and the verdict for the base it names."""

    __tablename__ = "adapter_facts"
    commit_id: Mapped[str] = mapped_column(ForeignKey("commits.id", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), index=True)  # of the adapter's own files: cards may change
    method: Mapped[str] = mapped_column(String(64))
    least_rank: Mapped[int | None] = mapped_column(Integer)
    most_rank: Mapped[int | None] = mapped_column(Integer)
    base_key: Mapped[str | None] = mapped_column(String(300), index=True)  # the base's name in lower case, as claimed
    base_id: Mapped[int | None] = mapped_column(ForeignKey("base_models.id"), index=True)
    verdict: Mapped[str] = mapped_column(String(16))
    rule_set: Mapped[int] = mapped_column(Integer)
    facts: Mapped[dict[str, Any]]
    report: Mapped[dict[str, Any]]


class AdapterLabel(Table):
    """`target:q_proj`, `fits:vllm`, …: what a search for adapters can ask."""

    __tablename__ = "adapter_labels"
    commit_id: Mapped[str] = mapped_column(ForeignKey("commits.id", ondelete="CASCADE"), primary_key=True)
    label: Mapped[str] = mapped_column(String(300), primary_key=True)

    __table_args__ = (Index("ix_adapter_labels_label", "label", "commit_id"),)


class Check(Table):
    """One verdict, kept: the same adapter, base and rules always have the same."""

    __tablename__ = "checks"
    adapter_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("base_models.id"), primary_key=True)
    rule_set: Mapped[int] = mapped_column(Integer, primary_key=True)
    verdict: Mapped[str] = mapped_column(String(16))
    report: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class AdapterStatistics(Table):
    """How large an adapter's updates are, once for its bytes. The row is the wish, until a worker has fulfilled it."""

    __tablename__ = "adapter_statistics"
    adapter_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    commit_id: Mapped[str] = mapped_column(ForeignKey("commits.id", ondelete="CASCADE"), index=True)  # has the files
    status: Mapped[str] = mapped_column(String(16), index=True)  # wanted | done | failed; changes once
    reason: Mapped[str | None] = mapped_column(Text)
    statistics: Mapped[dict[str, Any] | None]
    wanted_at: Mapped[datetime]
    done_at: Mapped[datetime | None]


class AdapterOverlap(Table):
    """How alike the updates of two adapters are, once for their bytes. The row is a wish, as with statistics."""

    __tablename__ = "adapter_overlaps"
    first_digest: Mapped[str] = mapped_column(
        String(64), primary_key=True
    )  # not after the second: no pair is there twice
    second_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    first_commit_id: Mapped[str] = mapped_column(ForeignKey("commits.id", ondelete="CASCADE"), index=True)
    second_commit_id: Mapped[str] = mapped_column(ForeignKey("commits.id", ondelete="CASCADE"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)  # who wanted it
    status: Mapped[str] = mapped_column(String(16), index=True)  # wanted | done | failed; changes
    reason: Mapped[str | None] = mapped_column(Text)
    overlap: Mapped[dict[str, Any] | None]
    wanted_at: Mapped[datetime]
    done_at: Mapped[datetime | None]


class CheckPolicy(Table):
    """What happens to an adapter that doesn't fit its base, where it isn't refused."""

    __tablename__ = "check_policies"
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True)
    policy: Mapped[str] = mapped_column(String(16))  # warn; changes


# --- merges -----------------------------------------------------------------------------------------------------------


class MergedRevision(Table):
    """A revision that is computed when it is read. A row is a fact: the same sources have the same id, for ever."""

    __tablename__ = "merged_revisions"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)  # where a commit's id is expected
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"), index=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)  # sha256 over recipe and commits
    digest: Mapped[str] = mapped_column(String(64), index=True)  # of the plan
    sources: Mapped[dict[str, Any]]  # recipe, and the commits that its names meant
    author_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)  # of the adapter's commit
    author: Mapped[str] = mapped_column(String(96))
    reads: Mapped[int] = mapped_column(Integer, default=0)  # of files of weights from their first byte; grows
    wanted_at: Mapped[datetime | None]  # when somebody asked for what only a worker makes
    used_at: Mapped[datetime | None]  # when its weights were last asked for
    stored_at: Mapped[datetime | None]  # when all its files became blobs
    fault: Mapped[str | None] = mapped_column(String(2000))  # why the last worker that made it didn't
    failed_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class MergeJob(Table):
    """A merge to be published. `status` goes queued, running, publishing, and once to done, failed or cancelled."""

    __tablename__ = "merge_jobs"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"), index=True)
    digest: Mapped[str] = mapped_column(String(64), index=True)
    sources: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(16), index=True)
    faults: Mapped[int] = mapped_column(Integer, default=0)  # processes of it that died
    bytes: Mapped[int] = mapped_column(BigInteger)
    done: Mapped[int] = mapped_column(BigInteger, default=0)
    error: Mapped[str | None] = mapped_column(Text)
    commit_id: Mapped[str | None] = mapped_column(String(40))
    version: Mapped[str | None] = mapped_column(String(32))
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class MergeFile(Table):
    """How far one file of a merge job is: its worker says so now and then."""

    __tablename__ = "merge_files"
    job_id: Mapped[str] = mapped_column(ForeignKey("merge_jobs.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(1024), primary_key=True)
    done: Mapped[int] = mapped_column(BigInteger, default=0)  # bytes


class MergeOutput(Table):
    """A file of a merge, computed to its end. The plan's digest fixes every byte, so whoever wants it shares it."""

    __tablename__ = "merge_outputs"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    path: Mapped[str] = mapped_column(String(1024), primary_key=True)
    blob_sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"), index=True)
    created_at: Mapped[datetime]


# --- mirrors ----------------------------------------------------------------------------------------------------------


class Mirror(Table):
    """A repository that follows one of another hub."""

    __tablename__ = "mirrors"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    namespace_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))  # in whose name it publishes
    endpoint: Mapped[str] = mapped_column(String(300))  # of the hub
    source: Mapped[str] = mapped_column(String(200))  # namespace/name there
    revision: Mapped[str] = mapped_column(String(128))
    name: Mapped[str] = mapped_column(String(96))  # of the repository here, made by the first run
    name_key: Mapped[str] = mapped_column(String(200), unique=True)
    is_private: Mapped[bool]
    created_at: Mapped[datetime]
    wanted_at: Mapped[datetime | None]  # changes: somebody asked for a run, and it is over
    checked_at: Mapped[datetime | None]  # when the last run ended
    remote_commit: Mapped[str | None] = mapped_column(String(40))  # that is here
    version: Mapped[str | None] = mapped_column(String(32))  # what it is here
    error: Mapped[str | None] = mapped_column(Text)  # of the last run
    sealed_token: Mapped[bytes | None] = mapped_column(LargeBinary)  # for the hub; its key is no row
    failures: Mapped[int] = mapped_column(default=0, server_default="0")  # of the last runs, one after the other
    next_try_at: Mapped[datetime | None]  # after a failure; nothing is tried before
    paused_at: Mapped[datetime | None]  # since when it runs only when somebody asks


class RevisionOrigin(Table):
    """Which commit of which hub a commit of a mirror is."""

    __tablename__ = "revision_origins"
    commit_id: Mapped[str] = mapped_column(ForeignKey("commits.id", ondelete="CASCADE"), primary_key=True)
    endpoint: Mapped[str] = mapped_column(String(300))
    repository: Mapped[str] = mapped_column(String(200))
    remote_commit: Mapped[str] = mapped_column(String(40))


# --- what happened ----------------------------------------------------------------------------------------------------


class FeedEvent(Table):
    """One thing that happened, written with the change itself. It is numbered once it is committed, so that no smaller
    number ever comes after a larger one; rows are in order of their ids as far as one change followed another.
    """

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    number: Mapped[int | None] = mapped_column(BigInteger, unique=True)  # changes once
    kind: Mapped[str] = mapped_column(String(32))
    at: Mapped[datetime]
    repository: Mapped[str | None] = mapped_column(String(24))  # its public id; null: of a base
    namespace_id: Mapped[int | None] = mapped_column(BigInteger)  # of the repository, then
    was_open: Mapped[bool]  # to everybody, then
    name: Mapped[str] = mapped_column(String(200))
    name_key: Mapped[str] = mapped_column(String(200))  # lower case
    actor: Mapped[str] = mapped_column(String(96))
    audience: Mapped[str] = mapped_column(String(8))  # readers | managers
    account_id: Mapped[int | None] = mapped_column(BigInteger)  # whom it concerns, who may know beside the managers
    data: Mapped[dict[str, Any]]

    __table_args__ = (
        Index("ix_events_fresh", "id", postgresql_where=_IS_FRESH, sqlite_where=_IS_FRESH),
        Index("ix_events_name_key", "name_key", "number"),
        Index("ix_events_at", "at"),
    )


class Feed(Table):
    """One row. Whoever numbers events holds it."""

    __tablename__ = "feed"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    last: Mapped[int] = mapped_column(BigInteger)  # number given out; changes
    forgotten: Mapped[int] = mapped_column(BigInteger)  # the last number whose event is no longer kept; changes
    spread: Mapped[int] = mapped_column(BigInteger)  # the last number that webhooks were looked for; changes


# --- upstreams --------------------------------------------------------------------------------------------------------


class Upstream(Table):
    """A hub whose repositories are served here. Without a definition it is one of LORAHUB_UPSTREAMS."""

    __tablename__ = "upstreams"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    definition: Mapped[dict[str, Any] | None]
    sealed_token: Mapped[bytes | None] = mapped_column(LargeBinary)  # for the hub; its key is no row
    quiet_until: Mapped[datetime | None]  # it is asked nothing before; changes
    fault: Mapped[str | None] = mapped_column(Text)  # why
    created_at: Mapped[datetime]


class UpstreamAnswer(Table):
    """What an upstream last said of a revision of a repository. All of it changes."""

    __tablename__ = "upstream_answers"
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)  # revision | names | commits
    revision: Mapped[str] = mapped_column(String(128), primary_key=True)
    commit_id: Mapped[str | None] = mapped_column(ForeignKey("commits.id", ondelete="CASCADE"), index=True)
    etag: Mapped[str | None] = mapped_column(String(200))
    said: Mapped[dict[str, Any] | None]  # of names and commits
    checked_at: Mapped[datetime]


class UpstreamFile(Table):
    """A file of an upstream's commit, known before its bytes are here; then it has a `CommitFile` too."""

    __tablename__ = "upstream_files"
    commit_id: Mapped[str] = mapped_column(ForeignKey("commits.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(1024), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(String(64))  # sha256 of a large file, git's sha1 of a small one: by its length
    read_at: Mapped[datetime | None]  # changes, at most once an hour

    __table_args__ = (Index("ix_upstream_files_digest", "digest", "commit_id"),)


class UpstreamTransfer(Table):
    """The bytes of one file on their way from an upstream, by the one process that holds the lease. What is done lies
    in parts of `part_bytes`, which go on where that process died. All of it changes.
    """

    __tablename__ = "upstream_transfers"
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str | None] = mapped_column(String(32))  # random; null: nobody's
    lease_until: Mapped[datetime | None]  # by the database's clock
    upload_id: Mapped[str | None] = mapped_column(String(32))  # the folder of its parts
    part_bytes: Mapped[int] = mapped_column(BigInteger)
    done: Mapped[int] = mapped_column(BigInteger)  # bytes of finished parts
    fault: Mapped[dict[str, Any] | None]  # {"code", "message"} of the last attempt
    retry_at: Mapped[datetime | None]  # nothing is tried before


# --- webhooks ---------------------------------------------------------------------------------------------------------


class Webhook(Table):
    """An address that is told what happens, as far as its account may see it."""

    __tablename__ = "webhooks"
    id: Mapped[str] = mapped_column(String(24), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    url: Mapped[str] = mapped_column(String(2000))
    watched: Mapped[list[dict[str, Any]]] = mapped_column(JSON)  # type, name, and the id of what the name meant
    kinds: Mapped[list[str]]  # none: all
    sealed_secret: Mapped[bytes | None] = mapped_column(LargeBinary)  # its key is no row; changes
    sealed_former: Mapped[bytes | None] = mapped_column(LargeBinary)  # signs beside the new one for a while
    former_until: Mapped[datetime | None]
    is_hub: Mapped[bool]  # made by the Hub's clients, whose receivers look for the secret itself
    domains: Mapped[list[str]]  # as those clients said them
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]  # when a message was last taken
    paused_at: Mapped[datetime | None]
    pause_reason: Mapped[str | None] = mapped_column(Text)  # where nobody paused it by hand


class WebhookDelivery(Table):
    """One message for one address. Those of a lane are sent in order of their ids: the first that is wanted is next."""

    __tablename__ = "webhook_deliveries"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event_number: Mapped[int | None] = mapped_column(BigInteger)  # null: somebody tries it
    lane: Mapped[str] = mapped_column(String(200))  # a repository's id, or a base's name
    kind: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(16))  # wanted | delivered | failed | withheld; changes
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_try_at: Mapped[datetime]
    claimed_by: Mapped[str | None] = mapped_column(String(64))  # the job that sends it
    claimed_until: Mapped[datetime | None]
    answer: Mapped[int | None] = mapped_column(Integer)  # the last status that came back
    said: Mapped[str | None] = mapped_column(Text)  # the beginning of that answer, or why there was none
    milliseconds: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(index=True)
    tried_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_webhook_deliveries_log", "webhook_id", "id"),
        Index(
            "ix_webhook_deliveries_wanted",
            "webhook_id",
            "lane",
            "id",
            postgresql_where=_IS_WANTED,
            sqlite_where=_IS_WANTED,
        ),
    )


# --- workers ----------------------------------------------------------------------------------------------------------


class Worker(Table):
    """A process that runs jobs. A row whose heartbeat is old is a dead one's, and is deleted by whoever notices."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    instance: Mapped[str] = mapped_column(String(32))  # random: of two that have one name, the one that bears it
    place: Mapped[str] = mapped_column(String(32))  # of its lock: who reaches it needn't wait for the heartbeat
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int] = mapped_column(Integer)
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]  # by the database's clock; changes


# --- requests ---------------------------------------------------------------------------------------------------------


class RequestCount(Table):
    """How often a caller has asked in the current window, where several processes count. Unlogged on PostgreSQL: a
    crash forgets a window. Without rows on SQLite, whose one process counts in its memory.
    """

    __tablename__ = "request_counts"
    window_at: Mapped[datetime] = mapped_column(primary_key=True)  # its beginning, by the database's clock
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    caller: Mapped[str] = mapped_column(String(64), primary_key=True)  # an account or an address
    used: Mapped[int] = mapped_column(Integer)


# --- the schema -------------------------------------------------------------------------------------------------------


class SchemaFloor(Table):
    """One row: the oldest migration whose programs may go on with this schema. A migration that takes from them what
    they need, or gives rows a meaning that they would break, puts its own id here.
    """

    __tablename__ = "schema_floor"
    revision: Mapped[str] = mapped_column(String(32), primary_key=True)
