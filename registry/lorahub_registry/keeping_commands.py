"""`lorahub admin …`: what is taken out of circulation, and copies of the whole."""

import sys
from pathlib import Path

import click
from lorahub.protocol.digests import parse_sha256
from lorahub.protocol.names import RepositoryName

from lorahub_registry.command_line import as_json_option, home_option, open_backend, settings_of, show
from lorahub_registry.features.accounts.permissions import OPERATOR
from lorahub_registry.features.backups import service as backups
from lorahub_registry.features.blobs import service as blobs
from lorahub_registry.features.maintenance import service as maintenance
from lorahub_registry.features.repositories import service as repositories
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.storage import BlobStore, open_storage
from lorahub_registry.settings import Settings

_reason = click.option("--reason", required=True, help="Kept in the audit log, and told to the repository's members.")


# --- quarantine -------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("repository")
@_reason
@home_option
@as_json_option
def quarantine(repository: str, reason: str, home: Path | None, *, as_json: bool) -> None:
    """Take REPOSITORY out of circulation: nobody but administrators reads or changes it."""
    name = RepositoryName.parse(repository)
    found = repositories.quarantine(open_backend(home), OPERATOR, name, reason)
    show({"repository": found.full_name, "reason": reason}, f"{found.full_name} is in quarantine", as_json=as_json)


@click.command()
@click.argument("repository")
@home_option
@as_json_option
def unquarantine(repository: str, home: Path | None, *, as_json: bool) -> None:
    """End the quarantine of REPOSITORY: everything is as it was."""
    found = repositories.release(open_backend(home), OPERATOR, RepositoryName.parse(repository))
    show({"repository": found.full_name}, f"{found.full_name} is in circulation again", as_json=as_json)


@click.command()
@home_option
@as_json_option
def quarantined(home: Path | None, *, as_json: bool) -> None:
    """List what is in quarantine."""
    found = [
        {"repository": one.full_name, "reason": one.quarantine.reason, "by": one.quarantine.by}
        for one in repositories.quarantined(open_backend(home), OPERATOR)
        if one.quarantine is not None
    ]
    show(found, "\n".join(f"{row['repository']:48} {row['reason']}" for row in found), as_json=as_json)


# --- blocked bytes ----------------------------------------------------------------------------------------------------


@click.command("block-hash")
@click.argument("sha256")
@_reason
@home_option
@as_json_option
def block_hash(sha256: str, reason: str, home: Path | None, *, as_json: bool) -> None:
    """Let nobody bring or fetch the bytes with this SHA256, wherever they are."""
    block = blobs.block(open_backend(home), OPERATOR, parse_sha256(sha256), reason)
    show({"sha256": block.sha256, "reason": reason}, f"{block.sha256} is blocked", as_json=as_json)


@click.command("unblock-hash")
@click.argument("sha256")
@home_option
@as_json_option
def unblock_hash(sha256: str, home: Path | None, *, as_json: bool) -> None:
    """Let the bytes with this SHA256 be used again."""
    blobs.unblock(open_backend(home), OPERATOR, parse_sha256(sha256))
    show({"sha256": sha256}, f"{sha256} is not blocked any more", as_json=as_json)


@click.command()
@home_option
@as_json_option
def blocked(home: Path | None, *, as_json: bool) -> None:
    """List blocked bytes."""
    found = [
        {"sha256": block.sha256, "reason": block.reason, "by": block.by}
        for block in blobs.blocks(open_backend(home), OPERATOR)
    ]
    show(found, "\n".join(f"{row['sha256']} {row['reason']}" for row in found), as_json=as_json)


# --- damage -----------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--bytes", "most_bytes", type=click.IntRange(min=0), help="Stop after so many (default: read all).")
@home_option
@as_json_option
def scrub(most_bytes: int | None, home: Path | None, *, as_json: bool) -> None:
    """Read and hash stored bytes, those first that were verified longest ago. What is damaged is served no more; exit
    status 7 if anything is.
    """
    most = sys.maxsize if most_bytes is None else most_bytes
    report = maintenance.scrub(open_backend(home), most_bytes=most)
    show(report.as_json(), str(report), as_json=as_json)
    if report.damaged:
        raise SystemExit(7)


# --- backups ----------------------------------------------------------------------------------------------------------

_endpoint = click.option("--endpoint", help="Address of the place's S3 server (default: the registry's own).")


@click.command()
@click.argument("place")
@_endpoint
@home_option
@as_json_option
def backup(place: str, endpoint: str | None, home: Path | None, *, as_json: bool) -> None:
    """Copy the whole registry to PLACE, a folder or s3://bucket/prefix, while it runs.

    What PLACE has of earlier backups isn't copied again. Exit status 7 if the registry itself has damaged bytes.
    """
    backend = open_backend(home)
    report = backups.back_up(backend, _place(backend.settings, place, endpoint))
    show(report.as_json(), str(report), as_json=as_json)
    if report.manifest.damaged:
        raise SystemExit(7)


@click.command("backups")
@click.argument("place")
@_endpoint
@home_option
@as_json_option
def list_backups(place: str, endpoint: str | None, home: Path | None, *, as_json: bool) -> None:
    """List the backups in PLACE, newest first."""
    found = [made.as_json() for made in backups.backups_in(_place(settings_of(home), place, endpoint))]
    lines = [f"{made['id']}   {made['blobs']} blobs, {made['bytes'] / 1e6:.1f} MB" for made in found]
    show(found, "\n".join(lines), as_json=as_json)


@click.command()
@click.argument("place")
@click.option("--id", "backup_id", help="Which backup (default: the newest).")
@_endpoint
@home_option
@as_json_option
def restore(place: str, backup_id: str | None, endpoint: str | None, home: Path | None, *, as_json: bool) -> None:
    """Make a registry of a backup in PLACE, on whatever database and storage the settings name.

    It has to be empty. Every byte is hashed on its way; at the end `fsck --deep` proves the whole.
    """
    backend = Backend.open(settings_of(home))
    report = backups.restore(backend, _place(backend.settings, place, endpoint), backup_id)
    show(report.as_json(), str(report), as_json=as_json)
    if report.problems:
        raise SystemExit(7)


def _place(settings: Settings, place: str, endpoint: str | None) -> BlobStore:
    changes = {"storage": place, "storage_endpoint": endpoint or settings.storage_endpoint}
    return open_storage(settings.model_copy(update=changes))


COMMANDS: tuple[click.Command, ...] = (
    quarantine,
    unquarantine,
    quarantined,
    block_hash,
    unblock_hash,
    blocked,
    scrub,
    backup,
    list_backups,
    restore,
)
