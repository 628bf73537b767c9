"""A revision of the public Hub into a folder: at one commit, every file as large as the Hub says and, where it says a
digest, the very bytes. The Hub is as little trusted as any registry: no path leaves the folder, no pickle is fetched.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lorahub.adapters.file_kinds import fault_of_name
from lorahub.errors import DigestMismatch, SizeMismatch
from lorahub.hub.bases import hub_transport
from lorahub.hub.configuration import Configuration
from lorahub.hub.folder import Left
from lorahub.hub.progress import Progress
from lorahub.hub.remote_files import RemoteFiles
from lorahub.hub.transport import Transport, goes_on, retrying
from lorahub.protocol.digests import git_blob_sha1
from lorahub.protocol.paths import check_tree, parse_path
from lorahub.protocol.references import Reference


@dataclass(frozen=True, slots=True)
class Fetched:
    """`source` is the reference with the commit that its revision meant."""

    source: str
    left: tuple[Left, ...]
    """What was not fetched: pickles and by-products of training, as far as names tell."""


def fetch_from_hub(settings: Configuration, reference: Reference, folder: Path, progress: Progress) -> Fetched:
    """Raises what the Hub refuses, `InvalidPath`, `SizeMismatch`, `DigestMismatch`."""
    repository = str(reference.repository)
    with hub_transport(settings) as hub:
        files = RemoteFiles(hub, repository, reference.revision or "main")
        paths = [parse_path(path) for path in files.sizes]
        check_tree(paths)
        faults = {path: fault for path in paths if (fault := fault_of_name(path)) is not None}
        wanted = [path for path in paths if path not in faults]
        progress.begin(f"Fetching {reference}", sum(files.sizes[path] for path in wanted))
        try:
            for path in wanted:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                address = f"/{repository}/resolve/{files.commit}/{quote(path)}"
                retrying(lambda at=address, to=target, size=files.sizes[path]: _bring(hub, at, to, size, progress))  # type: ignore[misc]
                _verify(files, path, target)
        finally:
            progress.end()
    left = tuple(Left(path, fault.message) for path, fault in faults.items())
    return Fetched(f"hf:{repository}@{files.commit}", left)


def _bring(hub: Transport, address: str, target: Path, size: int, progress: Progress) -> None:
    """Appends what is missing. Raises `SizeMismatch` where there is more or less of it than was announced."""
    have = target.stat().st_size if target.exists() else 0
    with target.open("ab") as file:
        if have < size:
            with hub.stream(address, {"Range": f"bytes={have}-"} if have else {}) as response:
                if have and not goes_on(response, have):
                    file.truncate(0)
                    progress.advance(-have)
                for piece in response.iter_bytes():
                    file.write(piece)
                    progress.advance(len(piece))
                    if file.tell() > size:
                        break
    if (found := target.stat().st_size) != size:
        raise SizeMismatch(f"{address}: {found} bytes came, {size} were announced", hint="import it again")


def _verify(files: RemoteFiles, path: str, target: Path) -> None:
    expected = files.sha256(path)
    if expected is not None:
        with target.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        expected = files.git_sha1(path)
        found = git_blob_sha1(target.read_bytes())
    if expected is not None and found != expected:
        raise DigestMismatch(f"{path}: the Hub sent {found}, and says {expected}", hint="import it again")
