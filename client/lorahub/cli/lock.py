"""`lorahub lock` and `lorahub verify`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from lorahub.cli.completing import placed, stored
from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage
from lorahub.hub.hub import Hub
from lorahub.hub.lock import LOCK, LockedAdapter, read_lock, write_lock
from lorahub.hub.signing import verify_folder


@command("lock")
@click.argument("references", nargs=-1, shell_complete=stored)
@click.option(
    "--file", "place", type=click.Path(path_type=Path), default=LOCK, show_default=True, help="The lock file."
)
@click.option("--base", metavar="BASE", help="Record this base for the references.")
def lock(session: Session, references: Sequence[str], *, place: Path, base: str | None) -> Result:
    """Write down which files REFERENCES stand for now; without any, renew every entry of the file."""
    known = {entry.reference: entry for entry in read_lock(place)} if place.is_file() else {}
    if not references and not known:
        raise InvalidUsage("there is nothing to lock", hint="lorahub lock acme/sql@champion")
    with session.hub() as hub:
        for reference in [str(hub.sources.reference(one)) for one in references] or list(known):
            before = known.get(reference)
            known[reference] = _now(hub, reference, base or (before.base if before else None))
    write_lock(place, known.values())
    rows = [[entry.reference, entry.commit[:12], entry.base or ""] for entry in known.values()]
    return Result(
        {"file": str(place), "adapters": [asdict(entry) for entry in known.values()]},
        f"{table(['reference', 'commit', 'base'], rows)}\n✓ wrote {place}",
        ids=[entry.pinned for entry in known.values()],
        rows=rows,
    )


@command("verify")
@click.argument("place", metavar="[FILE|FOLDER|REFERENCE]", default=LOCK, shell_complete=placed)
@click.option("--key", type=click.Path(path_type=Path), metavar="PUBLIC_KEY", help="Verify a signature by this key.")
def verify(session: Session, place: str, key: Path | None) -> Result:
    """Compare a lock file with the registry, or with --key a folder or a reference with its signature.

    Exit 1 where a reference of the lock file leads to other files now; 7 where the key has not signed exactly these
    files. A signature says who vouched for the bytes, not that they are harmless.
    """
    return _compare_lock(session, Path(place)) if key is None else _verify_signature(session, place, key)


def _verify_signature(session: Session, place: str, key: Path) -> Result:
    with session.sources() as sources:
        folder = sources.fetch(place).folder
    fingerprint = verify_folder(folder, key)
    return Result(
        {"verified": True, "signer": fingerprint, "folder": str(folder)},
        f"✓ {place} is what the key {fingerprint[:16]}… signed, file by file",
        ids=[fingerprint],
        rows=[[place, fingerprint]],
    )


def _compare_lock(session: Session, place: Path) -> Result:
    with session.hub() as hub:
        pairs = [(entry, _now(hub, entry.reference, entry.base)) for entry in read_lock(place)]
    moved = [(entry, now) for entry, now in pairs if (entry.commit, entry.digest) != (now.commit, now.digest)]
    rows = [
        [entry.reference, entry.commit[:12], now.commit[:12], "LH503" if entry != now else "✓"] for entry, now in pairs
    ]
    lines = [table(["reference", "locked", "now", ""], rows)]
    if moved:
        lines.append(f"✗ LH503: {len(moved)} of {len(pairs)} references lead to other files now")
        lines.append("  Hint: lorahub lock, and read the difference")
    else:
        lines.append(f"✓ {len(pairs)} references lead to the locked files")
    return Result(
        {"moved": [{"locked": asdict(entry), "now": asdict(now)} for entry, now in moved], "checked": len(pairs)},
        "\n".join(lines),
        ids=[entry.reference for entry, _ in moved],
        rows=rows,
        exit_code=1 if moved else 0,
    )


def _now(hub: Hub, reference: str, base: str | None) -> LockedAdapter:
    revision = hub.revision(reference)
    return LockedAdapter(reference, revision.commit, f"sha256:{revision.digest}", base)
