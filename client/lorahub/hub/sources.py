"""What people write for a base or an adapter, and its files. Names mean the same in every command.

    ./folder   folder   file.safetensors      what is here: a bare name is, where such a path exists
    hf:org/name@rev   hf:gpt2                 the Hub, at the setting hf_endpoint
    acme/sql@rev                              the registry, at the setting endpoint
    lorahub://hub.example/acme/sql@rev        another registry
    https://…/acme/sql/tree/rev               an address of the Hub's or the registry's pages

`open` reads headers, `fetch` brings whole files. Both keep what they read in the cache, and both can do without a
network: then a name is what it was when it was last asked for, and only a revision that is here whole is fetched.
"""

import logging
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, unquote, urlsplit

from lorahub.adapters.adapter_config import is_hub_id
from lorahub.adapters.file_kinds import fault_of_name
from lorahub.adapters.files import FolderFiles
from lorahub.errors import (
    EntryNotFound,
    InvalidReference,
    InvalidUsage,
    LorahubError,
    RepositoryNotFound,
    RevisionNotFound,
    TooManyRequests,
    Unavailable,
)
from lorahub.hub import stock_cache
from lorahub.hub.cache import Cache, Recalled, has
from lorahub.hub.configuration import Configuration
from lorahub.hub.contents import Contents, ListedFile, contents_of
from lorahub.hub.credentials import LOOPBACK, host_of, token_for, token_of_the_hub
from lorahub.hub.folder import Left
from lorahub.hub.local_names import require_holdable
from lorahub.hub.progress import Progress, Silence
from lorahub.hub.remote_files import RemoteFiles
from lorahub.protocol.digests import is_commit_id
from lorahub.protocol.messages.message import parse
from lorahub.protocol.messages.revisions import Alias, Version
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import check_tree, parse_path
from lorahub.protocol.references import LATEST, Reference, is_local, local_path

if TYPE_CHECKING:  # to import HTTP takes longer than to check or merge what lies here
    from lorahub.hub.transport import Transport

MAIN = "main"
OWN = "/api/lorahub/v1"

_OTHER_WEIGHTS = tuple(".bin .ckpt .gguf .h5 .msgpack .mlmodel .npz .onnx .onnx_data .ot .pkl .pt .pth .tflite".split())
_OTHER_FOLDERS = ("original/", "onnx/", "openvino/", "flax/")
_PAGE = re.compile(r"/([^/]+(?:/[^/]+)?)(?:/(?:tree|v)/([^/]+))?/?")


@dataclass(frozen=True, slots=True)
class Fetched:
    """Whole files in `folder`, or what was here already, which may be a file; `contents` is None then.

    `left` are pickles and by-products of training, as far as names tell, which are left on the Hub.
    """

    folder: Path
    contents: Contents | None = None
    left: tuple[Left, ...] = ()


Wanted = Callable[[str], bool]
"""Whether a path is to be fetched."""


def everything(_: str) -> bool:
    return True


def is_of_an_adapter(path: str) -> bool:
    """What reading an adapter takes: neither pickles nor by-products of training."""
    return fault_of_name(path) is None


def is_of_a_model(path: str) -> bool:
    """What loading, training and merging a model takes: not its weights again in other formats."""
    return not path.lower().endswith(_OTHER_WEIGHTS) and not path.startswith((*_OTHER_FOLDERS, "consolidated"))


class Sources:
    """`connect` leads to the registry at `endpoint`, and is called when a name needs it.

    `note` is told what a name was taken for without asking. Use it as a context manager: it closes what it opened.
    """

    def __init__(
        self,
        settings: Configuration,
        endpoint: str,
        connect: "Callable[[], Transport]",
        *,
        progress: Progress | None = None,
        note: Callable[[str], object] | None = None,
    ) -> None:
        self.settings = settings
        self.endpoint = endpoint.rstrip("/")
        self._connect = connect
        self._connecting = threading.Lock()
        self._progress = progress or Silence()
        self._note = note or logging.getLogger("lorahub").warning
        self._opened = ExitStack()
        self._transports: dict[tuple[str, bool], Transport] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    # --- what it is ---------------------------------------------------------------------------------------------------

    def locate(self, source: str | Path) -> Path | Reference:
        """Raises `InvalidReference`."""
        place = local_place(source)
        if place is not None:
            return place
        if _is_a_word(str(source)):
            raise InvalidReference(
                f"there is no file or folder {source} here, and it is no reference either",
                hint="name a path, namespace/name of a registry, or hf:org/name",
            )
        return self.reference(str(source))

    def reference(self, text: str) -> Reference:
        """Of what can't be a path. Raises `InvalidReference`."""
        return self._of_address(text) if text.startswith(("http://", "https://")) else Reference.parse(text)

    def _of_address(self, text: str) -> Reference:
        for scheme, endpoint in (("", self.endpoint), ("hf:", self._hub_endpoint)):
            page = _PAGE.fullmatch(text.removeprefix(endpoint)) if text.startswith(f"{endpoint}/") else None
            if page is not None:
                name, revision = unquote(page[1]), unquote(page[2] or "")
                return Reference.parse(f"{scheme}{name}@{revision}" if revision else f"{scheme}{name}")
        raise InvalidReference(
            f"{text[:200]} is no repository's address at {self.endpoint} or {self._hub_endpoint}",
            hint="a repository of another registry is written lorahub://host/namespace/name",
        )

    def endpoint_of(self, source: str) -> str | None:
        """The address that is asked for it; None for what is here, and for what is no name."""
        if local_place(source) is not None:
            return None
        try:
            return self.origin_of(self.reference(source)).endpoint
        except InvalidReference:
            return None

    # --- its files ----------------------------------------------------------------------------------------------------

    def open(self, source: str | Path | Reference) -> FolderFiles | RemoteFiles:
        """Files that can be read in part.

        Raises `EntryNotFound` for a path that isn't there, `NotFound` and what else the hub says, `InvalidUsage`
        offline.
        """
        located = source if isinstance(source, Reference) else self.locate(source)
        if isinstance(located, Path):
            return FolderFiles(_existing(located, source))
        origin, _, contents = self._look_up(located, source)
        snapshot = origin.cache.snapshot(located.repository, contents.commit)

        def connect() -> "Transport":
            if origin.closed_by is not None:
                raise not_here(origin, located, "is here in parts")
            return origin.connect()

        return RemoteFiles(connect, origin.cache, snapshot, contents)

    def fetch(
        self, source: str | Path | Reference, wanted: Wanted = everything, *, folder: Path | None = None
    ) -> Fetched:
        """The wanted files of a revision, each verified, in `folder` or in the cache; what is here already stays there.

        Raises as `open`; `EntryNotFound` where nothing of it is wanted; `DigestMismatch`, `SizeMismatch`, `DiskFull`,
        `InvalidPath`.
        """
        located = source if isinstance(source, Reference) else self.locate(source)
        if isinstance(located, Path):
            return Fetched(_existing(located, source))
        origin, name, contents = self._look_up(located, source)
        left = {} if origin.is_registry else _left_on_the_hub(contents)
        chosen = [file for file in contents.files if wanted(file.path) and file.path not in left]
        _require_some(contents, chosen)
        check_tree(parse_path(file.path) for file in chosen)
        snapshot = origin.cache.snapshot(located.repository, contents.commit)
        require_holdable((file.path for file in chosen), folder or snapshot)
        if folder is not None or not origin.cache.is_placed(chosen, snapshot):
            with origin.cache.filling():
                self._bring(origin, located, contents, chosen)
                origin.cache.place(chosen, snapshot, folder or snapshot)
                if origin.closed_by is None:  # once more: until now it was a revision without files
                    origin.cache.remember(located.repository, name, contents)
        return Fetched(folder or snapshot, contents, tuple(left.values()))

    def _bring(self, origin: "Origin", reference: Reference, contents: Contents, chosen: Sequence[ListedFile]) -> None:
        snapshot = origin.cache.snapshot(reference.repository, contents.commit)
        wanting = [file for file in chosen if origin.cache.held(snapshot, file) is None]
        if not wanting:
            return
        beside = None if origin.is_registry else stock_cache.blobs_of(str(reference.repository))
        missing = [file for file in wanting if beside is None or not has(beside / file.key, file.size)]
        if origin.closed_by is not None and missing:
            parts = f"{len(missing)} of {len(chosen)} files are missing, first {missing[0].path}"
            raise not_here(origin, reference, f"is here in parts: {parts}")
        from lorahub.hub.download import Download

        at = contents.repository, contents.commit
        Download(origin.connect(), origin.cache, *at, self._progress, beside=beside).fetch(wanting)

    # --- where from ---------------------------------------------------------------------------------------------------

    def origin_of(self, reference: Reference | None) -> "Origin":
        """None stands for the registry."""
        settings, closed_by = self.settings, self.settings.why_offline()
        if reference is not None and reference.scheme == "hf":
            closed_by = settings.why_offline("hf_offline")
            return self._another(self._hub_endpoint, lambda: token_of_the_hub(settings), closed_by, is_registry=False)
        host = None if reference is None else reference.host
        if host is None or host.lower() == urlsplit(self.endpoint).netloc.lower():
            cache = Cache(settings.cache_folder, self.endpoint)
            return Origin(self.endpoint, cache, self._connect, closed_by, is_registry=True)
        scheme = "http" if urlsplit(f"//{host}").hostname in LOOPBACK else "https"
        endpoint = f"{scheme}://{host.lower()}"
        return self._another(endpoint, lambda: token_for(endpoint, settings), closed_by, is_registry=True)

    def _another(
        self, endpoint: str, token: Callable[[], str | None], closed_by: str | None, *, is_registry: bool
    ) -> "Origin":
        def connect() -> "Transport":
            from lorahub.hub.transport import Transport

            with self._connecting:
                if (endpoint, is_registry) not in self._transports:
                    transport = Transport(endpoint, token(), timeout=self.settings.timeout, closed_by=closed_by)
                    self._transports[endpoint, is_registry] = self._opened.enter_context(transport)
                return self._transports[endpoint, is_registry]

        cache = Cache(self.settings.cache_folder, endpoint)
        return Origin(endpoint, cache, connect, closed_by, is_registry=is_registry)

    @property
    def _hub_endpoint(self) -> str:
        endpoint = self.settings.text("hf_endpoint").rstrip("/")
        host_of(endpoint)
        return endpoint

    def _look_up(self, reference: Reference, source: str | Path | Reference) -> tuple["Origin", str, Contents]:
        """Where it is, the name that it was found by, and what it consists of. `source` is how it was written."""
        origin = self.origin_of(reference)
        names = [reference.revision] if reference.revision else origin.defaults
        if origin.closed_by is not None:
            return origin, names[0], self._recalled(origin, reference, names)
        try:
            name, contents = origin.find(reference.repository, reference.revision)
        except (Unavailable, TooManyRequests) as error:
            if any(origin.recall(reference.repository, name) for name in names):
                suggest_offline(error)
            raise
        except RepositoryNotFound as error:
            if source == str(reference.repository):  # may have been meant as a path
                error.hint = f"{error.hint}; no folder is called {source} here either"
            raise
        origin.cache.remember(reference.repository, name, contents)
        return origin, name, contents

    def _recalled(self, origin: "Origin", reference: Reference, names: Sequence[str]) -> Contents:
        recalled = next(filter(None, (origin.recall(reference.repository, name) for name in names)), None)
        if recalled is None:
            raise not_here(origin, reference, "was never read on this machine")
        if recalled.as_of is not None:
            self.say_as_of(f"{reference} is {recalled.contents.commit[:12]}", recalled.as_of)
        return recalled.contents

    def say_as_of(self, what: str, as_of: datetime) -> None:
        self._note(f"! offline: {what}, as of {as_of:%Y-%m-%d %H:%M} UTC")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where revisions are read: a registry, or the Hub. `closed_by` is what forbids to ask it."""

    endpoint: str
    cache: Cache
    connect: "Callable[[], Transport]"
    closed_by: str | None
    is_registry: bool

    @property
    def defaults(self) -> Sequence[str]:
        """What a reference without a revision means: a registry's latest version, where there is any; else `main`."""
        return (LATEST, MAIN) if self.is_registry else (MAIN,)

    def recall(self, repository: RepositoryName, revision: str) -> Recalled | None:
        """What a name stood for when it was last asked for, by us or by the Hub's own clients."""
        recalled = self.cache.recall(repository, revision)
        return recalled or (None if self.is_registry else stock_cache.recall(str(repository), revision))

    def find(self, repository: RepositoryName, revision: str | None) -> tuple[str, Contents]:
        """The revision, and by what name. Raises `RevisionNotFound` with what exists, and what else it says."""
        asked = revision or self.defaults[0]
        try:
            return asked, self._ask(repository, asked)
        except RevisionNotFound as error:
            if not self.is_registry:
                raise
            if revision is None and not _versions(self.connect(), repository):
                return MAIN, self._ask(repository, MAIN)
            raise with_what_exists(error, self.connect(), repository, asked) from None

    def _ask(self, repository: RepositoryName, revision: str) -> Contents:
        """A registry lists stored revisions with all that it knows of them; merged ones as the Hub would."""
        asked = quote(revision, safe="")
        if self.is_registry and revision != "merged" and not revision.startswith("merged/"):
            try:
                address = f"{OWN}/models/{repository}/revisions/{asked}"
                return contents_of(self.connect().json("GET", address), str(repository))
            except RevisionNotFound:
                if not is_commit_id(revision):  # that of a merged one looks the same
                    raise
        address = f"/api/models/{repository}/revision/{asked}"
        return contents_of(self.connect().json("GET", address, query={"blobs": "true"}), str(repository))


def with_what_exists(
    error: RevisionNotFound, transport: "Transport", repository: RepositoryName, asked: str
) -> RevisionNotFound:
    """The same, with the versions and aliases that the registry has."""
    aliases = parse(list[Alias], transport.json("GET", f"{OWN}/models/{repository}/aliases"), "aliases")
    names = [one.name for one in _versions(transport, repository)[:8]] + [one.name for one in aliases[:8]]
    told = RevisionNotFound(
        f"{repository} has no revision {asked!r}",
        hint=f"there are: {', '.join(names)}" if names else f"it has no versions yet; {repository}@main is its branch",
        **error.facts,
    )
    told.request_id = error.request_id
    return told


def _versions(transport: "Transport", repository: RepositoryName) -> list[Version]:
    return parse(list[Version], transport.json("GET", f"{OWN}/models/{repository}/versions"), "versions")


def suggest_offline(error: LorahubError) -> None:
    error.hint = f"{error.hint}; --offline goes on with what was read before"


def not_here(origin: Origin, what: str | Reference, why: str) -> InvalidUsage:
    """The refusal where no network may be asked."""
    return InvalidUsage(
        f"{what} {why}, and no network is asked ({origin.closed_by})",
        hint=f"once with the network: lorahub pull {what}",
    )


# --- what is here -----------------------------------------------------------------------------------------------------


def local_place(source: str | Path) -> Path | None:
    """The path that is meant, whether it is there or not; None where it is a name."""
    if isinstance(source, Path) or is_local(source):
        return source if isinstance(source, Path) else local_path(source)
    is_name = source.startswith(("hf:", "lorahub:", "http://", "https://"))
    return None if is_name or not Path(source).exists() else Path(source)


def _existing(place: Path, source: object) -> Path:
    if not place.exists():
        hint = "name what is here, namespace/name of a registry, or hf:org/name"
        raise EntryNotFound(f"{source} isn't there", hint=hint)
    return place


def _left_on_the_hub(contents: Contents) -> dict[str, Left]:
    faults = ((file.path, fault_of_name(file.path)) for file in contents.files)
    return {path: Left(path, fault.message) for path, fault in faults if fault is not None}


def _is_a_word(source: str) -> bool:
    """Whether it may have been meant as a path: `out`, but neither `acme/out` nor `hf:gpt2`."""
    return "/" not in source and ":" not in source and "@" not in source


def may_look_up(claim: str) -> bool:
    """Whether a base's name that came with an adapter may be looked up: a stranger's word leads to no other host."""
    return is_hub_id(claim) or local_place(claim) is not None


def _require_some(contents: Contents, chosen: Sequence[ListedFile]) -> None:
    if contents.files and not chosen:
        has = ", ".join(file.path for file in contents.files[:10])
        raise EntryNotFound(f"no file of {contents.repository} matches", hint=f"it has: {has}")
