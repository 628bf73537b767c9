"""Every setting of the registry, with its unit, read from the environment (`LORAHUB_…`) once and passed down."""

from datetime import timedelta
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from lorahub_registry.settings.kinds import (
    Address,
    Addresses,
    CertificatesFile,
    Count,
    DatabaseUrl,
    Duration,
    HostNames,
    Hosts,
    InternalHosts,
    Interval,
    Limit,
    Networks,
    Patience,
    PlaceToListen,
    PublicKeyFile,
    Seconds,
    Storage,
)
from lorahub_registry.settings.upstreams import Upstream, Upstreams

__all__ = ["Settings", "Upstream", "default_home"]


def default_home() -> Path:
    """The per-user data directory of an embedded registry."""
    return Path(platformdirs.user_data_dir("lorahub")) / "registry"


class Settings(BaseSettings):
    """A name here is `LORAHUB_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="LORAHUB_", frozen=True, extra="ignore", env_ignore_empty=True)

    registry_home: Path = Field(
        default_factory=default_home,
        description="folder of the database, the blobs and the secret of an embedded registry; default: per "
        "user, `~/.local/share/lorahub/registry` on Linux",
    )
    database_url: DatabaseUrl | None = Field(
        default=None,
        description="SQLAlchemy URL, `sqlite:////path` or `postgresql+psycopg://user:password@host/name`; "
        "default: SQLite in the registry home",
    )
    storage: Storage | None = Field(
        default=None,
        description="where bytes are kept: a folder, or `s3://bucket/prefix`; default: `storage` in the "
        "registry home (docs/storage.md)",
    )
    storage_endpoint: Address | None = Field(
        default=None, description="URL of the S3 server, where the storage is a bucket; default: AWS"
    )
    storage_public_endpoint: Address | None = Field(
        default=None, description="URL of the S3 server as clients reach it; default: the storage endpoint"
    )
    storage_wait_seconds: Seconds = Field(
        default=30,
        description="seconds that a request waits for one of the 32 threads that use the storage, before 503",
    )
    database_connections: int = Field(
        default=40,
        ge=2,
        description="most connections to PostgreSQL that one process holds; beyond it requests wait",
    )
    database_connect_seconds: int = Field(
        default=5, ge=2, description="seconds to wait for PostgreSQL to answer a new connection"
    )
    database_wait_seconds: Seconds = Field(
        default=10, description="seconds that a request waits for a free connection, before 503"
    )
    database_lock_seconds: Seconds = Field(
        default=10, description="seconds that a statement waits for a row or a table, before 503"
    )
    database_statement_seconds: Seconds = Field(
        default=30, description="seconds that one statement may take, before 503"
    )
    migrate: bool = Field(
        default=True,
        description="whether programs bring the database to their schema when they start; if not, they refuse "
        "to run on another",
    )
    public_url: Address | None = Field(
        default=None,
        description="the address clients use, with scheme and any path prefix; default: the request's own Host",
    )
    allowed_hosts: HostNames = Field(
        default=[],
        description="JSON list of further names that requests may be for: `host`, or `*.host` for all below "
        "it; beside the public URL's, `localhost`, this machine's own name and IP addresses "
        "(docs/trust.md)",
    )
    secret: str | None = Field(default=None, description="key of signed URLs; default: made once, in the registry home")

    first_admin: bool = Field(
        default=True, description="whether `serve` makes an administrator where there is none, and prints the token"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="`text`, or `json`: one object a line")
    log_level: Literal["debug", "info", "warning", "error"] | None = Field(
        default=None,
        description="`debug`, `info`, `warning` or `error`; requests are logged at `info`; default: `warning` "
        "for text, `info` for JSON",
    )
    metrics_address: PlaceToListen | None = Field(
        default=None, description="HOST:PORT at which this process tells Prometheus its metrics; default: nowhere"
    )
    trusted_proxies: Networks | None = Field(
        default=None,
        description="addresses and networks, with commas, whose X-Forwarded-For and -Proto are believed; default: none",
    )

    connections: Count = Field(
        default=1024,
        description="most connections of one process; fewer where its limit of open files leaves no room for them",
    )
    connections_per_address: Limit = Field(
        default=200,
        description="most connections of one address, and through a trusted proxy most of its requests under "
        "way; 0: any",
    )
    requests_at_once: Count = Field(
        default=256, description="most requests that one process has under way, before 503; fewer with few open files"
    )
    header_seconds: Seconds = Field(
        default=10, description="seconds in which the lines before a request's body have to arrive"
    )
    least_bytes_per_second: Limit = Field(
        default=1000,
        description="rate below which a client may send or take a body for `LORAHUB_STALL_SECONDS` only; 0: any",
    )
    stall_seconds: Seconds = Field(
        default=30, description="seconds for which a client may send or take a body more slowly than that"
    )

    worker: bool = Field(default=True, description="whether `serve` also runs a worker process for background jobs")
    drain_seconds: Patience = Field(
        default=0,
        description="seconds from SIGTERM, during which `/readyz` says 503, to the end of accepting requests",
    )

    worker_lost_after: timedelta = Field(
        default=timedelta(seconds=30),
        ge=timedelta(seconds=1),
        description="a second or more: how long after its last heartbeat a worker is dead, and its jobs are others'",
    )
    worker_drain_seconds: Limit = Field(
        default=30, description="seconds that a worker which is told to end gives to the work it has in hand"
    )
    gc_interval: Interval = Field(
        default=timedelta(days=1), description="how often a worker collects garbage; `PT0S` for never"
    )
    scrub_interval: Interval = Field(
        default=timedelta(days=1),
        description="how often a worker reads and hashes the stored bytes that were verified longest ago; "
        "`PT0S` for never",
    )
    scrub_bytes: Count = Field(default=16 << 30, description="bytes that one scrub reads")

    ordinary_files: Literal["any", "known"] = Field(
        default="any",
        description="which files are taken that are neither by-products of training nor pickles: `any`, or "
        "`known`: only kinds that adapters and models have (docs/format.md)",
    )
    inline_file_bytes: Limit = Field(
        default=1 << 20,
        description="bytes; files up to this size travel inside the commit body, larger ones by upload",
    )
    commit_line_bytes: Count = Field(default=16 << 20, description="bytes; longest line of a commit body")
    commit_body_bytes: Count = Field(default=512 << 20, description="bytes; longest commit body")
    commit_operations: Count = Field(default=10_000, description="most files added or deleted by one commit")
    revision_files: Count = Field(default=10_000, description="most files of one revision")
    json_body_bytes: Count = Field(default=8 << 20, description="bytes; longest JSON or form body")
    form_body_bytes: Count = Field(
        default=4 << 30, description="bytes; longest form with files, which passes through the registry's process"
    )
    bundle_bytes: Count = Field(default=1 << 40, description="largest bundle that is imported")
    bundle_key: PublicKeyFile | None = Field(
        default=None,
        description="file of a public key in PEM; only bundles that were signed with it are imported (docs/bundles.md)",
    )
    object_bytes: Count = Field(default=1 << 40, description="bytes; largest uploaded file")
    multipart_threshold_bytes: Count = Field(
        default=64 << 20, description="bytes; larger objects are uploaded in parts"
    )
    part_bytes: Count = Field(default=16_000_000, description="bytes; size of every part but the last")

    merged_cache_bytes: Limit = Field(
        default=256 << 20,
        description="computed blocks of merged revisions, and the factors they are made of, that a process "
        "keeps in memory",
    )
    merged_store_reads: Limit = Field(
        default=20,
        description="reads of a merged revision's weights after which a worker stores them; 0 for never",
    )
    merged_store_bytes: Count = Field(
        default=128 << 30,
        description="merged revisions that workers store; those that were read longest ago make room",
    )
    merge_files_at_once: Count = Field(default=1, description="files of merges that one worker computes at once")
    merge_jobs_per_account: Limit = Field(default=2, description="most merges of one account under way at once; 0: any")
    merge_memory_bytes: Count = Field(
        default=8 << 30, description="memory that one file of a merge may take, beyond the process itself"
    )
    merge_seconds: Count = Field(default=6 * 3600, description="seconds that one try of one file of a merge may take")
    merge_device: str = Field(
        default="auto",
        description="what workers compute merges on: `cpu`, `auto` (a GPU, if there is one that torch can "
        "use), or one of torch's devices, like `cuda:1`; the bytes are the same (docs/merging.md)",
    )
    merge_output_bytes: Count = Field(default=1 << 40, description="largest model that a merge may make")

    quota_bytes: Limit = Field(
        default=100_000_000_000,
        description="most bytes of one namespace without a limit of its own: distinct files of its commits, "
        "and what is on its way; 0: any (docs/probes-and-limits.md#quotas)",
    )
    quota_repositories: Limit = Field(
        default=10_000, description="most repositories of one namespace without a limit of its own; 0: any"
    )
    quota_organisations: Limit = Field(
        default=10, description="most organisations that one account makes, if it is no administrator's; 0: any"
    )
    quota_open_uploads: Limit = Field(
        default=10_000, description="most uploads of one account whose bytes have yet to come; 0: any"
    )
    disk_reserve_bytes: Limit = Field(
        default=1 << 30,
        description="bytes that stay free on each disk that the registry writes files to, or a tenth of a "
        "disk below ten times as much; what would take them is a 507; 0: none",
    )
    xet_ratio: Count = Field(
        default=32, description="bytes to which a Xet upload may unpack for each one received, beyond the first 16 MiB"
    )
    rate_window: Duration = Field(default=timedelta(minutes=5), description="the window in which requests are counted")
    rate_limit_api: Limit = Field(
        default=10_000,
        description="most API requests of one account, or one address without a token, in a window; 0: any",
    )
    rate_limit_resolve: Limit = Field(
        default=50_000, description="most reads of files of one account or address in a window; 0: any"
    )
    rate_limit_pages: Limit = Field(
        default=5_000, description="most pages of one account or address in a window; 0: any"
    )
    rate_limit_login: Limit = Field(
        default=10, description="most wrong tokens or passwords of one address in a window; 0: any"
    )

    upload_patience: Duration = Field(
        default=timedelta(hours=1),
        description="how long an upload waits for its next bytes, and room is kept for it; no longer than the lifetime",
    )
    upload_lifetime: Duration = Field(
        default=timedelta(hours=24), description="how long uploaded bytes wait for the commit that names them"
    )
    blob_grace: Interval = Field(
        default=timedelta(hours=24),
        description="how long bytes that nothing refers to are kept before collection",
    )
    url_lifetime: Duration = Field(default=timedelta(hours=6), description="how long a signed upload URL is good")
    download_lifetime: Duration = Field(
        default=timedelta(minutes=15), description="how long an address at which the storage is read is good"
    )
    xet_token_lifetime: Duration = Field(
        default=timedelta(minutes=15), description="how long an upload session token is good"
    )

    outbound_hosts: Hosts = Field(
        default=[],
        description="JSON list of the hosts that the registry itself may call, over https: `host`, "
        "`host:port`, or `*.host` for all below it; none: it calls nobody but the issuers of "
        "`LORAHUB_OIDC_ISSUERS` (docs/trust.md)",
    )
    outbound_internal: InternalHosts = Field(
        default=[],
        description="JSON list of the hosts that it may call though they are on a private network, over http "
        "too: `host` or `host:port`",
    )
    outbound_authorities: CertificatesFile | None = Field(
        default=None, description="file of certificates in PEM that vouch for such hosts, beside the system's own"
    )
    events_kept: Duration = Field(
        default=timedelta(days=30), description="how long the feed keeps what happened (docs/events.md)"
    )
    event_readers: Count = Field(
        default=64,
        description="most requests of one process that wait for an event, before 503; a quarter of them for callers "
        "without an account",
    )
    mirror_interval: Interval = Field(
        default=timedelta(0),
        description="how often a worker looks for a new commit of what is mirrored; needs hosts that may be "
        "called; `PT0S`: only when somebody asks (docs/jobs.md)",
    )
    upstreams: Upstreams = Field(
        default=[],
        description="JSON list of the hubs whose repositories are served here under their own names: `name`, "
        "`endpoint`, `allow` and, where wanted, `licenses`, `hosts`, `private`; none: what isn't here is a 404 "
        "(docs/how-to/upstreams.md)",
    )
    upstream_fresh: Duration = Field(
        default=timedelta(minutes=5),
        description="how long what an upstream said of a revision is believed, before it is asked whether that changed",
    )
    upstream_missing: Duration = Field(
        default=timedelta(minutes=1),
        description="how long it is believed that an upstream hasn't something, refuses it, or is away",
    )
    upstream_bytes: Count = Field(
        default=1 << 40,
        description="bytes of upstreams' files that are kept; those that were read longest ago make room, but for "
        "repositories that an administrator keeps and bases of adapters that are here",
    )
    oidc_issuers: Addresses = Field(
        default=[],
        description="JSON list of the `https://` issuers whose identity tokens trusted publishers may have; "
        "needs `LORAHUB_PUBLIC_URL`, which is the audience; none: trusted publishing is off "
        "(docs/trust.md)",
    )
    publisher_token_lifetime: Duration = Field(
        default=timedelta(minutes=15), description="how long a token of a trusted publisher is good"
    )

    failpoint: str | None = Field(
        default=None, description="name of the step at which the process kills itself (crash tests)"
    )

    @property
    def patience(self) -> timedelta:
        """How long an upload is kept that nothing comes for."""
        return min(self.upload_patience, self.upload_lifetime)
