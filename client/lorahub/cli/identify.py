"""`lorahub identify`."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidBaseModel
from lorahub.hub.bases import hash_folder
from lorahub.hub.hub import Hub
from lorahub.hub.progress import Progress


@command("identify")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def identify(session: Session, files: Sequence[Path]) -> Result:
    """Find out what FILES are: by their sha256, wherever the registry has the same bytes.

    Weights that it doesn't have, in a file or a folder, may be those of a base that it knows, by their digests.
    """
    sums = {file: _sha256(file) for file in files if file.is_file()}
    with session.hub() as hub:
        found = hub.identify(list(dict.fromkeys(sums.values()))) if sums else {}
        unknown = [file for file in files if not found.get(sums.get(file, ""))]
        bases = {file: base for file in unknown if (base := _base_of(hub, file, session.progress()))}
    told: dict[str, Any] = {}
    rows: list[list[Any]] = []
    for file in files:
        places = found.get(sums.get(file, "")) or []
        base = bases.get(file)
        told[str(file)] = {"sha256": sums.get(file), "places": [asdict(place) for place in places], "base": base}
        rows += [[str(file), place.reference, place.path] for place in places]
        if base is not None:
            at = f"@{base['revision'][:12]}" if base["revision"] else ""
            rows.append([str(file), f"{base['name']}{at}", f"a base: the same {base['by']}"])
        elif not places:
            rows.append([str(file), "unknown", ""])
    return Result(
        told,
        table(["file", "is", "path"], rows),
        ids=[row[1] for row in rows if row[1] != "unknown"],
        rows=rows,
        exit_code=1 if len(unknown) > len(bases) else 0,
    )


def _base_of(hub: Hub, place: Path, progress: Progress) -> dict[str, Any] | None:
    """The registered base with the same weights, or else the same layout; None where the place holds no base."""
    try:
        own = hash_folder(place, progress)
    except InvalidBaseModel:
        return None
    for by, digest in (("weights", own.weights_digest), ("layout", own.layout_digest)):
        known = hub.bases.find(f"sha256:{digest}") if digest else None
        if known is not None:
            return {"name": known.name, "revision": known.revision, "by": by}
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
