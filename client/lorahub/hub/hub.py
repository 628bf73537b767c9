"""The SDK. `Hub()` uses the configured endpoint and the token saved for it; every method is one act."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from lorahub.adapters.adapter_config import is_hub_id
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.manifest import MANIFEST
from lorahub.errors import (
    AccessRefused,
    AlreadyExists,
    Conflict,
    InvalidReference,
    NotFound,
    NotMergeable,
    Refusal,
    RepositoryNotFound,
    RevisionNotFound,
    RouteNotFound,
    Unavailable,
)
from lorahub.hub import configuration, credentials, messages
from lorahub.hub.bases import Bases, base_from_document, document_of
from lorahub.hub.cache import Cache
from lorahub.hub.checking import Checked, Checker
from lorahub.hub.contents import Contents
from lorahub.hub.describe import describe
from lorahub.hub.folder import Left, Listing, list_folder, list_to_push
from lorahub.hub.messages import (
    Alias,
    Audience,
    CheckedRevision,
    Checks,
    Health,
    Identity,
    Information,
    KnownBase,
    MergeJob,
    Mirror,
    Model,
    Place,
    PlannedMerge,
    Publisher,
    Referred,
    Retention,
    Revision,
    Server,
    StatedSignature,
    Statistics,
    TakenBundle,
    Version,
)
from lorahub.hub.progress import Progress, Silence
from lorahub.hub.shapes import read
from lorahub.hub.signing import FILE as SIGNATURE
from lorahub.hub.signing import sign_files
from lorahub.hub.sources import Sources, Wanted, is_of_an_adapter, with_what_exists
from lorahub.hub.transport import RECORD, Transport
from lorahub.hub.upload import Upload, Wish
from lorahub.protocol.names import RepositoryName, is_version
from lorahub.protocol.references import LATEST, Reference

if TYPE_CHECKING:
    from lorahub.merging.recipe import Recipe  # brings numpy, which most commands don't need
    from lorahub.protocol.bundles import Manifest

OWN = "/api/lorahub/v1"


@dataclass(frozen=True, slots=True)
class Pushed:
    """`created` is False where the registry held exactly these files already."""

    repository: str
    version: str
    digest: str
    commit: str
    aliases: tuple[str, ...]
    created: bool
    url: str
    files: int
    size: int
    left: tuple[Left, ...]
    links: Mapping[str, str] = field(default_factory=dict)
    """Where the links among the files lead: their targets' bytes were sent."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """`left` are pickles and by-products of training, which are left on the Hub."""

    path: Path
    contents: Contents
    left: tuple[Left, ...] = ()

    @property
    def revision(self) -> Revision:
        """Raises `NotFound` where it is none of a registry's."""
        if self.contents.revision is None:
            raise NotFound(f"{self.contents.repository}@{self.contents.commit} is no stored revision of a registry")
        return self.contents.revision


_POLL_SECONDS = 0.5


class Hub:
    """One registry, as one user. Use it as a context manager, or let it live as long as the process.

    >>> with Hub("https://hub.example") as hub:          # doctest: +SKIP
    ...     hub.push("out/", "acme/sql").version
    'v1'
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        token: str | None = None,
        token_file: str | None = None,
        settings: configuration.Configuration | None = None,
        progress: Progress | None = None,
        note: Callable[[str], object] | None = None,
        anonymous: bool = False,
    ) -> None:
        """`anonymous` sends no token, whatever is saved. `note` is told what a name was taken for without asking.

        Raises `InvalidConfiguration`, `UnsafeEndpoint`.
        """
        self.settings = settings or configuration.load({"endpoint": endpoint})
        self.endpoint = (endpoint or self.settings.text("endpoint")).rstrip("/")
        credentials.host_of(self.endpoint)
        self.credential: credentials.Credential | None = None
        if token is not None:
            self.credential = credentials.Credential(token, "argument")
        elif not anonymous:
            self.credential = credentials.credential_for(self.endpoint, self.settings, token_file=token_file)
        self._progress = progress or Silence()
        self._transport = Transport(
            self.endpoint,
            None if self.credential is None else self.credential.token,
            timeout=self.settings.timeout,
            closed_by=self.settings.why_offline(),
        )
        self.cache = Cache(self.settings.cache_folder, self.endpoint)
        self.sources = Sources(
            self.settings, self.endpoint, lambda: self._transport, progress=self._progress, note=note
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sources.__exit__(kind, error, trace)
        self._transport.__exit__(kind, error, trace)

    @property
    def transport(self) -> Transport:
        """The connection itself, for what reads headers by ranges."""
        return self._transport

    # --- accounts -----------------------------------------------------------------------------------------------------

    def whoami(self) -> Identity:
        """Raises `NotAuthenticated`, `InvalidToken`."""
        return messages.parse_identity(self._transport.json("GET", "/api/whoami-v2"))

    def server(self) -> Server:
        """Name, version and time of the registry."""
        return read(Server, self._transport.json("GET", f"{OWN}/server"), "what it is")

    def health(self) -> Health:
        """Whether it can do its work, and what is missing. Not every balancer lets one ask: raises `NotFound` then."""
        return messages.parse_health(self._transport.health("/readyz"))

    # --- trusted publishers -------------------------------------------------------------------------------------------

    def publishers(self, repository: str) -> list[Publisher]:
        """The jobs that a repository trusts."""
        rows = self._transport.json("GET", self._publishers(repository))
        return read(list[Publisher], rows, "publishers")

    def trust(self, repository: str, issuer: str, claims: Mapping[str, str]) -> Publisher:
        """Lets jobs publish whose identity token, of this issuer, makes these claims."""
        body = {"issuer": issuer, "claims": dict(claims)}
        return messages.parse_publisher(self._transport.json("POST", self._publishers(repository), body=body))

    def distrust(self, repository: str, publisher: int) -> None:
        self._transport.json("DELETE", f"{self._publishers(repository)}/{publisher}")

    def retention(self, repository: str) -> Retention:
        """`keep` so many versions, None for all; `drops` are those that the next collection lets go of."""
        found = self._transport.json("GET", f"{self._own(self._reference(repository))}/retention")
        return read(Retention, found, "what it keeps")

    def set_retention(self, repository: str, keep: int | None) -> Retention:
        address = f"{self._own(self._reference(repository))}/retention"
        return read(Retention, self._transport.json("PUT", address, body={"keep": keep}), "what it keeps")

    def mirrors(self) -> list[Mirror]:
        """What the namespaces that we manage mirror of other hubs."""
        return read(list[Mirror], self._transport.json("GET", f"{OWN}/mirrors"), "mirrors")

    def add_mirror(
        self,
        endpoint: str,
        repository: str,
        target: str,
        *,
        revision: str = "main",
        private: bool = False,
        hub_token: str | None = None,
    ) -> Mirror:
        """Lets the registry's workers follow a repository of the hub at `endpoint`. They publish in our name.

        `hub_token` is for that hub, where the repository asks for one.
        """
        body = {
            "endpoint": endpoint,
            "repository": repository,
            "revision": revision,
            "target": target,
            "private": private,
            **({} if hub_token is None else {"token": hub_token}),
        }
        return messages.parse_mirror(self._transport.json("POST", f"{OWN}/mirrors", body=body))

    def run_mirror(self, mirror: int) -> Mirror:
        return messages.parse_mirror(self._transport.json("POST", f"{OWN}/mirrors/{mirror}/run"))

    def mirror(self, mirror: int) -> Mirror:
        return messages.parse_mirror(self._transport.json("GET", f"{OWN}/mirrors/{mirror}"))

    def pause_mirror(self, mirror: int) -> Mirror:
        """It runs only when somebody asks."""
        return messages.parse_mirror(self._transport.json("POST", f"{OWN}/mirrors/{mirror}/pause"))

    def resume_mirror(self, mirror: int) -> Mirror:
        return messages.parse_mirror(self._transport.json("POST", f"{OWN}/mirrors/{mirror}/resume"))

    def set_mirror_token(self, mirror: int, hub_token: str | None) -> Mirror:
        """What the hub is told from now on; None for nothing."""
        body = {"token": hub_token}
        return messages.parse_mirror(self._transport.json("PUT", f"{OWN}/mirrors/{mirror}/token", body=body))

    def remove_mirror(self, mirror: int) -> None:
        self._transport.json("DELETE", f"{OWN}/mirrors/{mirror}")

    def oidc_audience(self) -> str:
        """What an identity token has to be made for. Raises `NotSupported` where trusted publishing is off."""
        return read(Audience, self._transport.json("GET", f"{OWN}/oidc/audience"), "an audience")["audience"]

    def exchange_identity(self, repository: str, identity_token: str) -> str:
        """A token that writes to the repository for some minutes. Raises `InvalidToken`, `NotPermitted`."""
        body = {"token": identity_token, "repository": str(self._reference(repository).repository)}
        return messages.parse_token(self._transport.json("POST", f"{OWN}/oidc/token", body=body))

    def _publishers(self, repository: str) -> str:
        return f"{self._own(self._reference(repository))}/publishers"

    # --- writing ------------------------------------------------------------------------------------------------------

    def push(  # noqa: PLR0913 (each is an option of the command)
        self,
        folder: str | Path,
        reference: str | Reference,
        *,
        message: str | None = None,
        version: str | None = None,
        aliases: Sequence[str] = (),
        latest: bool = True,
        private: bool = False,
        create: bool = True,
        base: str | None = None,
        sign: Path | None = None,
        parents: Sequence[str] | None = None,
        policy: str | None = None,
    ) -> Pushed:
        """One new version of exactly the files of `folder`, or the version that holds them already.

        A lorahub.json that is missing or untrue is composed, and the folder stays as it is; `base` names the base whose
        digests it records (a folder, hf:org/name, a name of this registry), `parents` what the adapter was made of.
        `sign` is a private key (PEM); the signature goes beside the files, as model.sig. `policy` is set before, as
        `set_policy` does it.
        Raises `InvalidUsage` for a folder without anything to push, and what the registry refuses, `AdapterDoesNotFit`
        among it; a repository that was made for a push that is refused goes again.
        """
        wanted = self._reference(reference)
        listing = self._compose(Path(folder), base, parents, sign)
        wish = Wish(
            message or f"Push {Path(folder).resolve().name}",
            version or wanted.revision,
            _aliases(aliases, latest=latest),
        )
        with self._held(wanted.repository, private=private, create=create) as repository:
            if policy is not None:
                self.set_policy(str(repository), policy)
            committed = Upload(self._transport, repository, self._progress).send(listing.files, wish)
        return Pushed(
            repository=str(repository),
            version=committed.version,
            digest=committed.digest,
            commit=committed.commit_oid,
            aliases=committed.aliases,
            created=committed.created,
            url=f"{self.endpoint}/{repository}/v/{committed.version}",
            files=len(listing.files),
            size=sum(file.size for file in listing.files),
            left=listing.left,
            links={file.path: str(file.target) for file in listing.files if file.target is not None},
        )

    def import_from_hub(
        self, source: str, repository: str | Reference, *, private: bool = False, base: str | None = None
    ) -> Pushed:
        """`hf:org/name@rev` as the next version here; lorahub.json and the commit say which commit it was.

        Raises what the Hub and the registry refuse, `DigestMismatch` for other bytes than the Hub says.
        """
        wanted = self.sources.reference(source)
        if wanted.scheme != "hf":
            raise InvalidReference(f"{source} is not on the Hub", hint="write hf:org/name")
        with tempfile.TemporaryDirectory() as place:
            pulled = self._pull(wanted, Path(place), is_of_an_adapter)
            origin = f"hf:{wanted.repository}@{pulled.contents.commit}"
            message, parents = f"Import {origin}", [origin]
            pushed = self.push(place, repository, message=message, private=private, base=base, parents=parents)
        return replace(pushed, left=(*pushed.left, *pulled.left))

    def _compose(self, folder: Path, base: str | None, parents: Sequence[str] | None, sign: Path | None) -> Listing:
        """The folder's files, and those that are made for this push."""
        composed: dict[str, bytes] = {}
        if (manifest := self._describe(folder, base, parents)) is not None:
            composed[MANIFEST] = manifest
        if sign is not None:
            composed[SIGNATURE] = sign_files(list_folder(folder, composed).files, sign, name=folder.resolve().name)
        return list_to_push(folder, composed)

    def _describe(self, folder: Path, base: str | None, parents: Sequence[str] | None) -> bytes | None:
        opened = Bases(self.sources).open(base).base if base is not None else None

        def find(name: str) -> BaseLayout | None:
            if not is_hub_id(name):
                return None
            try:
                return base_from_document(self._transport.json("GET", f"{OWN}/bases/{quote(name)}"))
            except NotFound:
                return None

        return describe(folder, find, opened, parents) if folder.is_dir() else None

    @staticmethod
    def list_folder(folder: str | Path) -> Listing:
        """What `push` would send, and what it would leave, and why."""
        return list_to_push(Path(folder))

    def create(self, repository: str, *, private: bool = False, exist_ok: bool = False) -> None:
        """Raises `AlreadyExists`, `NameRetired`, `NotPermitted`."""
        name = self._reference(repository).repository
        body = {
            "name": name.name,
            "organization": name.namespace,
            "visibility": "private" if private else "public",
            "type": "model",
        }
        try:
            self._transport.json("POST", "/api/repos/create", body=body)
        except AlreadyExists as error:
            existing = str(error.facts.get("existing", name))
            if existing.lower() != name.key:
                raise AlreadyExists(
                    f"{name} is too much like {existing}, which exists: names that differ only in - _ . are one",
                    hint=f"push to {existing}, or choose another name",
                ) from None
            if not exist_ok:
                raise

    @contextmanager
    def _held(self, name: RepositoryName, *, private: bool, create: bool) -> Iterator[RepositoryName]:
        """The repository as the registry spells it; made where it is missing and may be, and gone again where the block
        is refused.
        """
        try:
            existing = self._spelled(name)
        except RepositoryNotFound:
            if not create:
                raise
        else:
            yield existing
            return
        self.create(str(name), private=private, exist_ok=True)
        made = self._spelled(name)
        try:
            yield made
        except Refusal:
            with suppress(AccessRefused, NotFound, Unavailable):  # what is to be told is why the push was refused
                self._transport.json("DELETE", f"{OWN}/models/{made}/claim")
            raise

    def _spelled(self, name: RepositoryName) -> RepositoryName:
        """As the registry spells it. Raises `RepositoryNotFound`."""
        return messages.parse_name(self._transport.json("GET", f"/api/models/{name}"))

    def delete(self, repository: str) -> None:
        """The whole repository; its name is never given out again."""
        name = self._reference(repository).repository
        body = {"name": name.name, "organization": name.namespace, "type": "model"}
        self._transport.json("DELETE", "/api/repos/delete", body=body)

    def set_alias(self, reference: str, alias: str, *, protected: bool | None = None) -> Alias:
        """The alias leads to the reference's revision afterwards. Raises `ProtectedReference`, `VersionYanked`."""
        wanted = self._reference(reference)
        body: dict[str, Any] = {"revision": wanted.revision or LATEST}
        if protected is not None:
            body["protected"] = protected
        return messages.parse_alias(self._transport.json("PUT", f"{self._own(wanted)}/aliases/{_q(alias)}", body=body))

    def remove_alias(self, repository: str, alias: str) -> None:
        self._transport.json("DELETE", f"{self._own(self._reference(repository))}/aliases/{_q(alias)}")

    def yank(self, reference: str, reason: str) -> Version:
        """The version is served when named exactly, never through an alias."""
        address = f"{self._own_version(reference)}/yank"
        return messages.parse_version(self._transport.json("POST", address, body={"reason": reason}))

    def unyank(self, reference: str) -> Version:
        return messages.parse_version(self._transport.json("DELETE", f"{self._own_version(reference)}/yank"))

    # --- reading ------------------------------------------------------------------------------------------------------

    def revision(self, reference: str | Reference) -> Revision:
        """What the reference stands for, without its bytes.

        Raises `RevisionNotFound` with the versions and aliases that exist, `RepositoryNotFound`, `GatedRepository`.
        """
        wanted = self._reference(reference)
        asked = wanted.revision or LATEST
        try:
            body = self._transport.json("GET", f"{self._own(wanted)}/revisions/{_q(asked)}")
        except RevisionNotFound as error:
            raise with_what_exists(error, self._transport, wanted.repository, asked) from None
        return messages.parse_revision(body)

    def versions(self, repository: str) -> list[Version]:
        """Newest first."""
        rows = self._transport.json("GET", f"{self._own(self._reference(repository))}/versions")
        return read(list[Version], rows, "versions")

    def aliases(self, repository: str) -> list[Alias]:
        rows = self._transport.json("GET", f"{self._own(self._reference(repository))}/aliases")
        return read(list[Alias], rows, "aliases")

    def model(self, repository: str) -> Information:
        """The Hub's information on a repository: tags, card, parameters, downloads."""
        answer = self._transport.json("GET", f"/api/models/{self._reference(repository).repository}")
        return read(Information, answer, "a repository")

    def search(
        self,
        text: str | None = None,
        *,
        author: str | None = None,
        filters: Sequence[str] = (),
        base: str | None = None,
        rank: str | None = None,
        targets: Sequence[str] = (),
        fits: Sequence[str] = (),
        sort: str | None = None,
        limit: int = 30,
    ) -> list[Model]:
        """Repositories that match everything given. `filters` are tags, such as `base_model:adapter:acme/tiny`.

        The rest goes by what was measured: `base` by name, `rank` as `16` or `8..64`, `targets` as `q_proj`, `fits` as
        `vllm`.
        """
        given = {
            "search": text,
            "author": author,
            "filter": list(filters) or None,
            "base": base,
            "rank": rank,
            "target": list(targets) or None,
            "fits": list(fits) or None,
            "sort": sort,
        }
        query = {
            "limit": min(limit, 1000),
            "full": "true",
            **{name: value for name, value in given.items() if value is not None},
        }
        rows = self._transport.rows("/api/models", query)
        return [messages.parse_model(row) for row in islice(rows, limit)]

    def pull(
        self,
        reference: str | Reference,
        folder: str | Path | None = None,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> Pulled:
        """The files of a revision, each verified: in `folder`, or in the cache. Other files in `folder` stay.

        The reference may lead to any registry, or to the Hub (`hf:org/name`). `include` and `exclude` are shell
        patterns on paths. Raises what `revision` does, `DigestMismatch`, `DiskFull`.
        """
        wanted = self.sources.reference(reference) if isinstance(reference, str) else reference
        return self._pull(wanted, None if folder is None else Path(folder), _matching(include, exclude))

    def _pull(self, reference: Reference, folder: Path | None, wanted: Wanted) -> Pulled:
        fetched = self.sources.fetch(reference, wanted, folder=folder)
        assert fetched.contents is not None  # a reference's has one
        return Pulled(fetched.folder, fetched.contents, fetched.left)

    def fetch(self, source: str) -> Path:
        """Where the files of a base or an adapter are: a path that exists, or a revision, brought into the cache."""
        return self.sources.fetch(source).folder

    # --- bases and checks ---------------------------------------------------------------------------------------------

    def add_base(self, base: BaseLayout, name: str, *, revision: str | None = None) -> KnownBase:
        """Registers a base by its layout, and its weights where they were hashed, under this name.

        Raises `NotPermitted`, `InvalidBaseModel`, `AlreadyExists` where the revision is known with another layout.
        """
        document = document_of(base) | {"names": [name], "revision": revision or base.revision}
        return read(KnownBase, self._transport.json("POST", f"{OWN}/bases", body=document), "a base model")

    def bases(self, text: str | None = None) -> list[KnownBase]:
        """Registered bases, without their layouts."""
        query = {"search": text} if text else None
        return [read(KnownBase, row, "a base model") for row in self._transport.rows(f"{OWN}/bases", query)]

    def adapters_of(self, base: str) -> list[str]:
        """References of the newest version of every adapter that you may see and that names this base."""
        name = _unrevised(self.sources, base)
        rows = self._transport.rows(f"{OWN}/bases/{quote(name)}/adapters")
        return [read(Referred, row, "an adapter")["reference"] for row in rows]

    def check(
        self,
        adapter: str,
        *bases: str,
        level: str = "shapes",
        runtimes: Sequence[str] = (),
    ) -> list[Checked]:
        """Checks a folder or a reference on this machine: one result for each base, or for the base it names."""
        return Checker(self.sources, level=level, runtimes=runtimes, progress=self._progress).run(adapter, bases)

    def check_all(self, adapters: Sequence[str], bases: Sequence[str]) -> Checks:
        """The registry's own verdicts, from what it has stored: every adapter against every base."""
        body = {"adapters": list(adapters), "bases": list(bases)}
        return read(Checks, self._transport.json("POST", f"{OWN}/checks", body=body), "verdicts")

    def checked(self, reference: str | Reference) -> CheckedRevision | None:
        """The registry's verdict on the adapter of a revision, with its measured facts; None where it is no adapter."""
        wanted = self._reference(reference)
        try:
            address = f"{self._own(wanted)}/check/{_q(wanted.revision or LATEST)}"
            return read(CheckedRevision, self._transport.json("GET", address), "a verdict")
        except NotFound as error:
            if error.code != NotFound.code:
                raise
            return None

    def signature(self, reference: str | Reference) -> StatedSignature | None:
        """What the revision's signature says of itself and of the files; None where it brings none.

        Proves nothing about who made it: that takes the key. A registry of before answers None too.
        """
        wanted = self._reference(reference)
        try:
            found = self._transport.json("GET", f"{self._own(wanted)}/signature/{_q(wanted.revision or LATEST)}")
        except RouteNotFound:
            return None
        stated = read(StatedSignature, found, "a signature")
        return stated if stated["signed"] else None

    def statistics(self, reference: str | Reference) -> Statistics:
        """`status` wanted, done or failed; then `statistics` by module and layer. Raises `NotFound` for no adapter."""
        wanted = self._reference(reference)
        address = f"{self._own(wanted)}/statistics/{_q(wanted.revision or LATEST)}"
        return read(Statistics, self._transport.json("GET", address), "statistics")

    def set_policy(self, repository: str, policy: str) -> None:
        """`refuse` or `warn`: what happens to an adapter that doesn't fit the base it names."""
        address = f"{self._own(self._reference(repository))}/check-policy"
        self._transport.json("PUT", address, body={"policy": policy})

    def identify(self, digests: Sequence[str]) -> Mapping[str, Sequence[Place]]:
        """sha256 -> where files with these bytes are, among what you may read."""
        answer = self._transport.json("POST", f"{OWN}/by-hash", body={"sha256": list(digests)})
        return read(Mapping[str, list[Place]], answer, "places")  # type: ignore[type-abstract]  # read gives a dict

    # --- bundles ------------------------------------------------------------------------------------------------------

    def export(self, references: Sequence[str], target: str | Path, *, key: str | Path | None = None) -> "Manifest":
        """Writes repositories into a bundle, each whole or as it was at a revision; `key` is a private key in PEM.

        Raises `InvalidBundle` where the registry's ids are not those of what it says.
        """
        from lorahub.hub.bundling import Bundler
        from lorahub.protocol.records import parse_record

        records = []
        for reference in map(self._reference, dict.fromkeys(references)):
            query = {"revision": reference.revision} if reference.revision else None
            address = f"{self._own(reference)}/record"
            records.append(parse_record(self._transport.json("GET", address, query=query, bound=RECORD)))
        bundler = Bundler(self._transport, self.cache, self._progress)
        return bundler.write(records, Path(target), key=None if key is None else Path(key))

    def import_bundle(self, bundle: str | Path, *, key: str | Path | None) -> TakenBundle:
        """Brings a bundle's repositories into the registry, as an administrator; `key` is the public key that must have
        signed it, None takes it from anybody. Raises `InvalidBundle`, `NotPermitted`, `AlreadyExists`.
        """
        from lorahub.hub.bundling import Bundler

        bundler = Bundler(self._transport, self.cache, self._progress)
        return bundler.send(Path(bundle), key=None if key is None else Path(key))

    # --- merges -------------------------------------------------------------------------------------------------------

    def merge(self, recipe: "Recipe", folder: str | Path, *, threads: int | None = None, device: str = "cpu") -> Path:
        """Folds adapters into a base on this machine: W' = W + s·BA. A merge that was interrupted goes on.

        `device` may be `auto`, `cuda` or another one of torch's: the bytes are the same. Raises `InvalidUsage` for one
        that isn't there; `NotMergeable`, `AdapterDoesNotFit`, `MergeTooLarge` before anything is written; and
        `AlreadyExists`.
        """
        from lorahub.hub.merging import Merger
        from lorahub.merging.devices import open_device

        with Merger(self.sources) as merger:
            plan = merger.plan(recipe, device=open_device(device))
            return merger.write(plan, Path(folder), threads=threads, progress=self._progress)

    def plan_merge(self, recipe: "Recipe") -> PlannedMerge:
        """What the registry would merge: files with sizes, cost, digest. Nothing is started."""
        body = self._of_ours(recipe).as_json()
        return read(PlannedMerge, self._transport.json("POST", f"{OWN}/merges/plan", body=body), "a plan")

    def start_merge(self, recipe: "Recipe", target: str, *, private: bool = False) -> MergeJob:
        """Asks the registry to merge, and to publish the result in the repository `target`.

        The same recipe for the same target is the same job. Raises what planning raises, `TooManyRequests`.
        """
        ours, name = self._of_ours(recipe), str(self._reference(target).repository)
        body = {"recipe": ours.as_json(), "target": name, "private": private}
        return read(MergeJob, self._transport.json("POST", f"{OWN}/merges", body=body), "a job")

    def _of_ours(self, recipe: "Recipe") -> "Recipe":
        """With names as the registry itself writes them. Raises `InvalidReference` for what isn't there."""
        adapters = (replace(one, source=self._plain(one.source)) for one in recipe.adapters)
        return replace(recipe, base=self._plain(recipe.base), adapters=tuple(adapters))

    def _plain(self, source: str) -> str:
        return str(replace(self._reference(source), scheme="lorahub", host=None))

    def merge_job(self, job: str) -> MergeJob:
        """`status` (queued, running, publishing, done, failed, cancelled), `bytes`, `done` and the `reference`."""
        return read(MergeJob, self._transport.json("GET", f"{OWN}/merges/{_q(job)}"), "a job")

    def cancel_merge(self, job: str) -> MergeJob:
        return read(MergeJob, self._transport.json("POST", f"{OWN}/merges/{_q(job)}/cancel"), "a job")

    def wait_for_merge(self, job: str, progress: Progress | None = None) -> MergeJob:
        """Until it is over. Raises `NotMergeable` where it failed, `Conflict` where it was cancelled."""
        shown, seen = progress or self._progress, 0
        found = self.merge_job(job)
        shown.begin("merging", found["bytes"])
        while found["status"] in ("queued", "running", "publishing"):
            time.sleep(_POLL_SECONDS)
            found = self.merge_job(job)
            shown.advance(found["done"] - seen)
            seen = found["done"]
        shown.end()
        if found["status"] == "failed":
            raise NotMergeable(str(found["error"]), hint="see the registry's log for the rest")
        if found["status"] == "cancelled":
            raise Conflict(f"the merge {job} was cancelled")
        return found

    # --- addresses ----------------------------------------------------------------------------------------------------

    def _reference(self, reference: str | Reference) -> Reference:
        parsed = self.sources.reference(reference) if isinstance(reference, str) else reference
        if parsed.scheme == "hf":
            raise InvalidReference(
                f"{parsed} is on the Hub; this needs a repository of a lorahub registry",
                hint=f"bring it here: lorahub import {parsed} namespace/name",
            )
        if parsed.host is not None and parsed.host != credentials.host_of(self.endpoint).partition("://")[2]:
            raise InvalidReference(
                f"{parsed} is on another registry than {self.endpoint}", hint=f"add --endpoint https://{parsed.host}"
            )
        return parsed

    @staticmethod
    def _own(reference: Reference) -> str:
        return f"{OWN}/models/{reference.repository}"

    def _own_version(self, reference: str) -> str:
        wanted = self._reference(reference)
        if wanted.revision is None or not is_version(wanted.revision):
            raise InvalidReference(f"{reference} names no version", hint=f"write {wanted.repository}@v3")
        return f"{self._own(wanted)}/versions/{wanted.revision}"


def _aliases(given: Sequence[str], *, latest: bool) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*([LATEST] if latest else []), *given]))


def _unrevised(sources: Sources, base: str) -> str:
    """A base's name as a registry knows it: of its own repository or the Hub's, or any other."""
    try:
        return str(sources.reference(base).repository)
    except InvalidReference:
        return base.partition("@")[0]


def _matching(include: Sequence[str], exclude: Sequence[str]) -> Wanted:
    from fnmatch import fnmatchcase

    def wanted(path: str) -> bool:
        is_in = not include or any(fnmatchcase(path, pattern) for pattern in include)
        return is_in and not any(fnmatchcase(path, pattern) for pattern in exclude)

    return wanted


def _q(element: str) -> str:
    return quote(element, safe="")
