"""`lorahub admin …`: copies of the whole registry."""

from pathlib import Path

import click

from lorahub_registry.commands.registry import as_json_option, home_option, open_backend, show, unmigrated
from lorahub_registry.infrastructure.storage import BlobStore, open_storage
from lorahub_registry.operations.backups import service as backups
from lorahub_registry.settings import Settings
from lorahub_registry.settings.reading import read

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
    show(report.as_json(), str(report), as_json=as_json, exit_code=7 if report.manifest.damaged else 0)


@click.command("backups")
@click.argument("place")
@_endpoint
@home_option
@as_json_option
def list_backups(place: str, endpoint: str | None, home: Path | None, *, as_json: bool) -> None:
    """List the backups in PLACE, newest first."""
    found = [made.as_json() for made in backups.backups_in(_place(read(home), place, endpoint))]
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
    backend = unmigrated(read(home))
    report = backups.restore(backend, _place(backend.settings, place, endpoint), backup_id)
    show(report.as_json(), str(report), as_json=as_json, exit_code=7 if report.problems else 0)


def _place(settings: Settings, place: str, endpoint: str | None) -> BlobStore:
    changes = {"storage": place, "storage_endpoint": endpoint or settings.storage_endpoint}
    return open_storage(settings.model_copy(update=changes))
