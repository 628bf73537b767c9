"""The cache of the Hub's own clients: what they have fetched isn't fetched again, and is there without a network.

    models--<org>--<name>/blobs/<digest>          the files
    models--<org>--<name>/refs/<name>             the commit that a name stood for
    models--<org>--<name>/trees/<commit>.json     what a revision consists of, written by huggingface_hub 2

Without the last nobody can tell whether a revision is whole, and none is taken for it. Every file is proved before it
is used.
"""

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lorahub.errors import RegistryFailed
from lorahub.hub.cache import Recalled, read_json
from lorahub.hub.configuration import home_of_the_hub
from lorahub.hub.contents import contents_of
from lorahub.protocol.digests import is_commit_id

_FORMAT = 1


def blobs_of(repository: str) -> Path:
    return _folder(repository) / "blobs"


def recall(repository: str, revision: str) -> Recalled | None:
    """What a name stood for, and what that consists of."""
    name = _folder(repository) / "refs" / revision
    commit, as_of = revision, None
    if not is_commit_id(revision):
        try:
            commit, as_of = name.read_text("utf-8").strip(), datetime.fromtimestamp(name.stat().st_mtime, UTC)
        except (OSError, UnicodeDecodeError):
            return None
    tree = read_json(_folder(repository) / "trees" / f"{commit}.json")
    if not isinstance(tree, dict) or tree.get("format_version") != _FORMAT or not isinstance(tree.get("files"), dict):
        return None
    siblings = [_sibling(path, entry) for path, entry in tree["files"].items() if isinstance(entry, dict)]
    with suppress(RegistryFailed):
        return Recalled(contents_of({"sha": commit, "siblings": siblings}, repository), as_of)
    return None


def _folder(repository: str) -> Path:
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    models = Path(chosen).expanduser() if chosen else home_of_the_hub() / "hub"
    return models / f"models--{repository.replace('/', '--')}"


def _sibling(path: str, entry: dict[str, Any]) -> dict[str, Any]:
    """As the Hub itself lists it."""
    large = entry.get("lfs_sha256")
    said = {"rfilename": path, "size": entry.get("size")}
    return {**said, "lfs": {"sha256": large}} if large else {**said, "blobId": entry.get("blob_id")}
