"""The SDK. `Hub()` uses the configured endpoint and the token saved for it; every method is one act."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from lorahub.adapters.manifest import MANIFEST
from lorahub.errors import (
    AccessRefused,
    AlreadyExists,
    InvalidReference,
    NotFound,
    Refusal,
    RegistryFailed,
    RepositoryNotFound,
    RevisionNotFound,
    RouteNotFound,
    Unavailable,
)
from lorahub.hub import configuration, credentials
from lorahub.hub.api import OWN, Api, element
from lorahub.hub.bases import Bases
from lorahub.hub.cache import Cache
from lorahub.hub.checking import Checker, Checks
from lorahub.hub.contents import Contents
from lorahub.hub.describe import describe
from lorahub.hub.events import Events
from lorahub.hub.folder import Left, Listing, list_folder, list_to_push
from lorahub.hub.merges import Merges
from lorahub.hub.mirrors import Mirrors
from lorahub.hub.organisations import Organisations
from lorahub.hub.progress import Progress, shown
from lorahub.hub.publishers import Publishers
from lorahub.hub.registered_bases import RegisteredBases
from lorahub.hub.revisions import Revision, Versions, parse_revision
from lorahub.hub.signing import FILE as SIGNATURE
from lorahub.hub.signing import sign_files
from lorahub.hub.sources import Sources, Wanted, is_of_an_adapter, with_what_exists
from lorahub.hub.transport import RECORD, Transport
from lorahub.hub.upload import Upload, Wish
from lorahub.hub.webhooks import Webhooks
from lorahub.protocol.messages.accounts import Identity
from lorahub.protocol.messages.bundles import TakenBundle
from lorahub.protocol.messages.checks import CheckedRevision, FilePlace, Verdicts
from lorahub.protocol.messages.message import parse
from lorahub.protocol.messages.models import ModelInformation
from lorahub.protocol.messages.registry import Health, Server
from lorahub.protocol.messages.repositories import StorageUse
from lorahub.protocol.messages.retention import Retention
from lorahub.protocol.messages.revisions import Alias, Version
from lorahub.protocol.messages.signatures import StatedSignature
from lorahub.protocol.messages.statistics import Statistics
from lorahub.protocol.names import RepositoryName, is_version
from lorahub.protocol.references import LATEST, Reference

if TYPE_CHECKING:
    from lorahub.merging.recipe import Recipe  # brings numpy, which most commands don't need
    from lorahub.protocol.bundles import Manifest


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push came to. `created` is False where the registry held exactly these files already.

    >>> pushed = hub.push("./out", "acme/sql", base="acme/llama")
    >>> f"{pushed.repository}@{pushed.version}", pushed.created, pushed.files
    ('acme/sql@v2', False, 4)
    """

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
    """What a pull brought. `left` are pickles and by-products of training, which are left on the Hub.

    >>> pulled = hub.pull("acme/sql@champion")
    >>> pulled.revision.version, (pulled.path / "adapter_model.safetensors").is_file()
    ('v2', True)
    """

    path: Path
    contents: Contents
    left: tuple[Left, ...] = ()

    @property
    def revision(self) -> Revision:
        """Raises `NotFound` where it is none of a registry's.

        >>> revision = hub.revision("acme/sql@champion")
        >>> revision.version, [file.path for file in revision.files][-1]
        ('v2', 'lorahub.json')
        """
        if self.contents.revision is None:
            raise NotFound(f"{self.contents.repository}@{self.contents.commit} is no stored revision of a registry")
        return self.contents.revision


class Hub:
    """One registry, as one user. Use it as a context manager, or let it live as long as the process.

    Without arguments it is the registry of the setting `endpoint`, with the token that `lorahub login` saved for it.
    Threads may share one: in async code, `await asyncio.to_thread(hub.pull, "acme/sql")` waits in a thread.

    >>> from lorahub import Hub
    >>> with Hub() as hub:
    ...     hub.push("./out", "acme/first").version
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
        Without `progress` it is shown as the setting `progress` says: a bar in a notebook or on a terminal.

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
        self._progress = progress or shown(self.settings.text("progress"))
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
        self._api = Api(self.endpoint, self._transport, self.sources)
        self.bases = RegisteredBases(self._api)
        self.events = Events(self._api)
        self.merges = Merges(self._api, self._progress)
        self.mirrors = Mirrors(self._api)
        self.organisations = Organisations(self._api)
        self.publishers = Publishers(self._api)
        self.webhooks = Webhooks(self._api)

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
        """Raises `NotAuthenticated`, `InvalidToken`.

        >>> hub.whoami().name
        'acme'
        """
        return self._api.ask(Identity, "who we are", "GET", "/api/whoami-v2")

    def server(self) -> Server:
        """Name, version and time of the registry.

        >>> hub.server().name
        'lorahub'
        """
        return self._api.ask(Server, "what it is", "GET", f"{OWN}/server")

    def health(self) -> Health:
        """Whether it can do its work, and what is missing. Not every balancer lets one ask: raises `NotFound` then.

        >>> hub.health().is_up
        True
        """
        return parse(Health, self._transport.health("/readyz"), "its health")

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

        >>> pushed = hub.push("./out", "acme/poems", base="acme/llama", aliases=["champion"])
        >>> pushed.version, pushed.aliases, pushed.created
        ('v1', ('latest', 'champion'), True)
        >>> hub.push("./out", "acme/poems", base="acme/llama").created
        False
        """
        wanted = self._api.reference(reference)
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
            commit=committed.commit,
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

        >>> hub.import_from_hub("hf:someone/sql@main", "acme/theirs").version  # doctest: +SKIP
        'v1'
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
        named = [] if base is None else [opened.base for opened in Bases(self.sources).revisions(base)]
        return describe(folder, named, parents) if folder.is_dir() else None

    @staticmethod
    def list_folder(folder: str | Path) -> Listing:
        """What `push` would send, and what it would leave, and why.

        >>> [file.path for file in hub.list_folder("./out").files]
        ['README.md', 'adapter_config.json', 'adapter_model.safetensors']
        """
        return list_to_push(Path(folder))

    def create(self, repository: str, *, private: bool = False, exist_ok: bool = False) -> None:
        """Raises `AlreadyExists`, `NameRetired`, `NotPermitted`.

        >>> hub.create("acme/new", private=True)
        >>> hub.exists("acme/new")
        True
        """
        name = self._api.reference(repository).repository
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
        said = self._api.ask(ModelInformation, "a repository", "GET", f"/api/models/{name}").id
        try:
            return RepositoryName.parse(said)
        except Refusal as error:
            raise RegistryFailed(f"the registry sent a repository that can't be right: {error}") from None

    def rename(self, repository: str, name: str) -> None:
        """Everything of it is found under the new name from now on, and the old one leads there.

        Raises `AlreadyExists`, `NameRetired`, `NotPermitted`.

        >>> hub.rename("acme/draft", "acme/chat")
        >>> hub.exists("acme/chat@v1")
        True
        """
        names = {"fromRepo": repository, "toRepo": name}
        body = {key: str(self._api.reference(one).repository) for key, one in names.items()}
        self._api.do("POST", "/api/repos/move", body={**body, "type": "model"})

    def set_visibility(self, repository: str, visibility: Literal["public", "private"]) -> None:
        """Who may see it: everybody, or its namespace's members. Raises `NotPermitted`.

        >>> hub.set_visibility("acme/sql", "private")
        >>> hub.model("acme/sql").private
        True
        """
        address = f"/api/models/{self._api.reference(repository).repository}/settings"
        self._api.do("PUT", address, body={"visibility": visibility})

    def delete(self, repository: str) -> None:
        """The whole repository; its name is never given out again.

        >>> hub.delete("acme/old")
        >>> hub.exists("acme/old")
        False
        """
        name = self._api.reference(repository).repository
        body = {"name": name.name, "organization": name.namespace, "type": "model"}
        self._api.do("DELETE", "/api/repos/delete", body=body)

    def set_alias(self, reference: str, alias: str, *, protected: bool | None = None) -> Alias:
        """The alias leads to the reference's revision afterwards. Raises `ProtectedReference`, `VersionYanked`.

        >>> hub.set_alias("acme/sql@v1", "stable").version
        'v1'
        """
        wanted = self._api.reference(reference)
        body: dict[str, Any] = {"revision": wanted.revision or LATEST}
        if protected is not None:
            body["protected"] = protected
        address = f"{self._api.own(wanted)}/aliases/{element(alias)}"
        return self._api.ask(Alias, "an alias", "PUT", address, body=body)

    def remove_alias(self, repository: str, alias: str) -> None:
        """What it led to stays.

        >>> hub.remove_alias("acme/sql", "unused")
        """
        self._api.do("DELETE", f"{self._api.own(repository)}/aliases/{element(alias)}")

    def yank(self, reference: str, reason: str) -> Version:
        """The version is served when named exactly, never through an alias.

        >>> hub.yank("acme/wrong@v1", "trained on the wrong rows").yanked.reason
        'trained on the wrong rows'
        """
        address = f"{self._own_version(reference)}/yank"
        return self._api.ask(Version, "a version", "POST", address, body={"reason": reason})

    def unyank(self, reference: str) -> Version:
        """It is chosen through aliases again.

        >>> yanked = hub.yank("acme/wrong@v2", "by mistake")
        >>> hub.unyank("acme/wrong@v2").yanked is None
        True
        """
        return self._api.ask(Version, "a version", "DELETE", f"{self._own_version(reference)}/yank")

    def retention(self, repository: str) -> Retention:
        """`keep` so many versions, None for all; `drops` are those that the next collection lets go of.

        >>> hub.retention("acme/sql").keep is None
        True
        """
        return self._api.ask(Retention, "what it keeps", "GET", f"{self._api.own(repository)}/retention")

    def set_retention(self, repository: str, keep: int | None) -> Retention:
        """What is beyond `keep` goes with the next collection; None keeps all.

        >>> hub.set_retention("acme/wrong", 10).keep
        10
        """
        address = f"{self._api.own(repository)}/retention"
        return self._api.ask(Retention, "what it keeps", "PUT", address, body={"keep": keep})

    def set_policy(self, repository: str, policy: str) -> None:
        """`refuse` or `warn`: what happens to an adapter that doesn't fit the base it names.

        >>> hub.set_policy("acme/wrong", "warn")
        """
        self._api.do("PUT", f"{self._api.own(repository)}/check-policy", body={"policy": policy})

    # --- reading ------------------------------------------------------------------------------------------------------

    def revision(self, reference: str | Reference) -> Revision:
        """What the reference stands for, without its bytes.

        Raises `RevisionNotFound` with the versions and aliases that exist, `RepositoryNotFound`, `GatedRepository`.

        >>> revision = hub.revision("acme/sql@champion")
        >>> revision.version, [file.path for file in revision.files][-1]
        ('v2', 'lorahub.json')
        """
        wanted = self._api.reference(reference)
        asked = wanted.revision or LATEST
        try:
            body = self._transport.json("GET", f"{self._api.own(wanted)}/revisions/{element(asked)}")
        except RevisionNotFound as error:
            raise with_what_exists(error, self._transport, wanted.repository, asked) from None
        return parse_revision(body)

    def exists(self, reference: str | Reference) -> bool:
        """Whether the repository is there, and its revision where the reference names one, for all that we may see.

        >>> hub.exists("acme/sql"), hub.exists("acme/sql@v9"), hub.exists("acme/nothing")
        (True, False, False)
        """
        wanted = self._api.reference(reference)
        try:
            if wanted.revision is None:
                self._spelled(wanted.repository)
            else:
                self.revision(wanted)
        except (RepositoryNotFound, RevisionNotFound):
            return False
        return True

    def repositories(self, namespace: str | None = None) -> list[StorageUse]:
        """Those of a namespace, or our own, as far as we may see them, with the bytes that each holds.

        >>> {one.id: one.visibility for one in hub.repositories("acme")}["acme/wrong"]
        'public'
        """
        of = "" if namespace is None else f"/organizations/{element(namespace)}"
        return list(self._api.rows(StorageUse, "a repository", f"/api{of}/settings/repositories"))

    def versions(self, repository: str) -> Versions:
        """Newest first.

        >>> [version.name for version in hub.versions("acme/sql")]
        ['v2', 'v1']
        """
        return Versions(self._api.ask(list[Version], "versions", "GET", f"{self._api.own(repository)}/versions"))

    def aliases(self, repository: str) -> list[Alias]:
        """Names for versions, which move.

        >>> {alias.name: alias.version for alias in hub.aliases("acme/sql")}["champion"]
        'v2'
        """
        return self._api.ask(list[Alias], "aliases", "GET", f"{self._api.own(repository)}/aliases")

    def model(self, repository: str) -> ModelInformation:
        """The Hub's information on a repository: tags, card, parameters, downloads.

        >>> hub.model("acme/sql").library_name
        'peft'
        """
        address = f"/api/models/{self._api.reference(repository).repository}"
        return self._api.ask(ModelInformation, "a repository", "GET", address)

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
    ) -> list[ModelInformation]:
        """Repositories that match everything given. `filters` are tags, such as `base_model:adapter:acme/tiny`.

        The rest goes by what was measured: `base` by name, `rank` as `16` or `8..64`, `targets` as `q_proj`, `fits` as
        `vllm`.

        >>> [found.id for found in hub.search("sql", base="acme/llama", rank="..8", fits=["vllm"])]
        ['acme/sql']
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
        return list(islice(self._api.rows(ModelInformation, "a repository", "/api/models", query), limit))

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

        >>> pulled = hub.pull("acme/sql@v1", "./pulled", include=["*.json"])
        >>> sorted(path.name for path in pulled.path.iterdir())
        ['adapter_config.json', 'lorahub.json']
        """
        wanted = self.sources.reference(reference) if isinstance(reference, str) else reference
        return self._pull(wanted, None if folder is None else Path(folder), _matching(include, exclude))

    def _pull(self, reference: Reference, folder: Path | None, wanted: Wanted) -> Pulled:
        fetched = self.sources.fetch(reference, wanted, folder=folder)
        assert fetched.contents is not None  # a reference's has one
        return Pulled(fetched.folder, fetched.contents, fetched.left)

    def file(self, reference: str | Reference, path: str) -> Path:
        """One file of a revision, verified, in the cache: what `pull` brings, without the rest.

        Raises `EntryNotFound`, and what `pull` does.

        >>> hub.file("acme/sql@v1", "README.md").name
        'README.md'
        """
        wanted = self.sources.reference(reference) if isinstance(reference, str) else reference
        return self._pull(wanted, None, path.__eq__).path / path

    def fetch(self, source: str) -> Path:
        """Where the files of a base or an adapter are: a path that exists, or a revision, brought into the cache.

        >>> (hub.fetch("acme/sql@v1") / "adapter_config.json").is_file()
        True
        """
        return self.sources.fetch(source).folder

    # --- checks -------------------------------------------------------------------------------------------------------

    def check(
        self,
        adapter: str,
        *bases: str,
        level: str = "shapes",
        runtimes: Sequence[str] = (),
    ) -> Checks:
        """Checks a folder or a reference on this machine: one result for each base, or for the base it names.

        >>> [result] = hub.check("./out", "acme/llama", runtimes=["vllm"])
        >>> result.verdict.value, result.report.matched
        ('fits', 2)
        """
        checker = Checker(self.sources, level=level, runtimes=runtimes, progress=self._progress)
        return Checks(checker.run(adapter, bases))

    def check_all(self, adapters: Sequence[str], bases: Sequence[str]) -> Verdicts:
        """The registry's own verdicts, from what it has stored: every adapter against every base.

        >>> hub.check_all(["acme/sql@v1", "acme/sql@v2"], ["acme/llama"]).summary["compatible"]
        2
        """
        body = {"adapters": list(adapters), "bases": list(bases)}
        return self._api.ask(Verdicts, "verdicts", "POST", f"{OWN}/checks", body=body)

    def checked(self, reference: str | Reference) -> CheckedRevision | None:
        """The registry's verdict on the adapter of a revision, with its measured facts; None where it is no adapter.

        >>> hub.checked("acme/sql@v1").verdict
        'compatible'
        """
        try:
            return self._api.ask(CheckedRevision, "a verdict", "GET", self._revised(reference, "check"))
        except NotFound as error:
            if error.code != NotFound.code:
                raise
            return None

    def signature(self, reference: str | Reference) -> StatedSignature | None:
        """What the revision's signature says of itself and of the files; None where it brings none.

        Proves nothing about who made it: that takes the key. A registry of before answers None too.

        >>> hub.signature("acme/sql@v1") is None
        True
        """
        try:
            stated = self._api.ask(StatedSignature, "a signature", "GET", self._revised(reference, "signature"))
        except RouteNotFound:
            return None
        return stated if stated.signed else None

    def statistics(self, reference: str | Reference) -> Statistics:
        """`status` wanted, done or failed; then `statistics` by module and layer. Raises `NotFound` for no adapter.

        >>> hub.statistics("acme/sql@v1").status        # until a worker has measured it
        'wanted'
        """
        return self._api.ask(Statistics, "statistics", "GET", self._revised(reference, "statistics"))

    def identify(self, digests: Sequence[str]) -> dict[str, list[FilePlace]]:
        """sha256 -> where files with these bytes are, among what you may read.

        >>> digest = {file.path: file.sha256 for file in hub.revision("acme/sql@v1").files}["adapter_model.safetensors"]
        >>> "acme/sql" in [place.repository for place in hub.identify([digest])[digest]]
        True
        """
        body = {"sha256": list(digests)}
        return self._api.ask(dict[str, list[FilePlace]], "places", "POST", f"{OWN}/by-hash", body=body)

    # --- bundles ------------------------------------------------------------------------------------------------------

    def export(self, references: Sequence[str], target: str | Path, *, key: str | Path | None = None) -> "Manifest":
        """Writes repositories into a bundle, each whole or as it was at a revision; `key` is a private key in PEM.

        Raises `InvalidBundle` where the registry's ids are not those of what it says.

        >>> [str(record.name) for record in hub.export(["acme/wrong@v1"], "wrong.lorahub").repositories]
        ['acme/wrong']
        """
        from lorahub.hub.bundling import Bundler
        from lorahub.protocol.records import parse_record

        records = []
        for reference in map(self._api.reference, dict.fromkeys(references)):
            query = {"revision": reference.revision} if reference.revision else None
            address = f"{self._api.own(reference)}/record"
            records.append(parse_record(self._transport.json("GET", address, query=query, bound=RECORD)))
        bundler = Bundler(self._transport, self.cache, self._progress)
        return bundler.write(records, Path(target), key=None if key is None else Path(key))

    def import_bundle(self, bundle: str | Path, *, key: str | Path | None) -> TakenBundle:
        """Brings a bundle's repositories into the registry, as an administrator; `key` is the public key that must have
        signed it, None takes it from anybody. Raises `InvalidBundle`, `NotPermitted`, `AlreadyExists`.

        >>> hub.import_bundle("sql.lorahub", key="acme.pub").repositories  # doctest: +SKIP
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

        >>> from lorahub import Ingredient, Recipe
        >>> recipe = Recipe("./llama", (Ingredient("acme/sql@v1", weight=0.7), Ingredient("./out", weight=0.3)))
        >>> sorted(path.name for path in hub.merge(recipe, "./both").iterdir())[-1]
        'model.safetensors'
        """
        from lorahub.hub.merging import Merger
        from lorahub.merging.devices import open_device

        with Merger(self.sources) as merger:
            plan = merger.plan(recipe, device=open_device(device))
            return merger.write(plan, Path(folder), threads=threads, progress=self._progress)

    # --- addresses ----------------------------------------------------------------------------------------------------

    def _revised(self, reference: str | Reference, of: str) -> str:
        wanted = self._api.reference(reference)
        return f"{self._api.own(wanted)}/{of}/{element(wanted.revision or LATEST)}"

    def _own_version(self, reference: str) -> str:
        wanted = self._api.reference(reference)
        if wanted.revision is None or not is_version(wanted.revision):
            raise InvalidReference(f"{reference} names no version", hint=f"write {wanted.repository}@v3")
        return f"{self._api.own(wanted)}/versions/{wanted.revision}"


def _aliases(given: Sequence[str], *, latest: bool) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*([LATEST] if latest else []), *given]))


def _matching(include: Sequence[str], exclude: Sequence[str]) -> Wanted:
    from fnmatch import fnmatchcase

    def wanted(path: str) -> bool:
        is_in = not include or any(fnmatchcase(path, pattern) for pattern in include)
        return is_in and not any(fnmatchcase(path, pattern) for pattern in exclude)

    return wanted
