"""`lorahub identify`."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command


@command("identify")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
def identify(session: Session, files: Sequence[Path]) -> Result:
    """Find out what FILES are: by their sha256, wherever the registry has the same bytes."""
    sums = {file: _sha256(file) for file in files}
    with session.hub() as hub:
        found = hub.identify(list(dict.fromkeys(sums.values())))
    rows: list[list[Any]] = []
    for file, digest in sums.items():
        places = found.get(digest) or []
        rows += [[str(file), place.reference, place.path] for place in places]
        if not places:
            rows.append([str(file), "unknown", ""])
    unknown = [file for file, digest in sums.items() if not found.get(digest)]
    return Result(
        {
            str(file): {"sha256": digest, "places": [asdict(place) for place in found.get(digest) or []]}
            for file, digest in sums.items()
        },
        table(["file", "is", "path"], rows),
        ids=[row[1] for row in rows if row[1] != "unknown"],
        rows=rows,
        exit_code=1 if unknown else 0,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
