"""`lorahub admin …`: is it sound, and what keeps it so."""

import sys
from datetime import timedelta
from pathlib import Path

import click

from lorahub_registry.commands.registry import (
    as_json_option,
    home_option,
    open_backend,
    show,
    unmigrated,
    usable,
)
from lorahub_registry.features.catalog import service as catalog
from lorahub_registry.infrastructure import jobs
from lorahub_registry.infrastructure.database import migrate as migrations
from lorahub_registry.operations.maintenance import service as maintenance
from lorahub_registry.operations.probes.examination import examine
from lorahub_registry.settings.reading import read


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--grace-hours", type=float, help="Keep unreferenced bytes younger than this (default: 24).")
@home_option
@as_json_option
def gc(grace_hours: float | None, home: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Collect bytes that nothing refers to. Safe while the registry runs."""
    backend = open_backend(home)
    grace = backend.settings.blob_grace if grace_hours is None else timedelta(hours=grace_hours)
    report = maintenance.collect_garbage(backend, grace=grace, is_dry_run=dry_run)
    show(report.as_json(), str(report), as_json=as_json)


@click.command()
@click.option("--deep", is_flag=True, help="Read and hash every stored byte.")
@home_option
@as_json_option
def fsck(home: Path | None, *, deep: bool, as_json: bool) -> None:
    """Prove the registry's invariants; exit status 7 if one doesn't hold."""
    report = maintenance.check_invariants(open_backend(home), is_deep=deep)
    show(report.as_json(), str(report), as_json=as_json, exit_code=7 if report.problems else 0)


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
    show(report.as_json(), str(report), as_json=as_json, exit_code=7 if report.damaged else 0)


@click.command()
@home_option
@as_json_option
def doctor(home: Path | None, *, as_json: bool) -> None:
    """Try out database, storage, workers and merge device; exit status 8 if something that is needed doesn't work."""
    examination = examine(unmigrated(read(home)))
    show(examination.as_json(), str(examination), as_json=as_json, exit_code=0 if examination.is_healthy else 8)


@click.command()
@home_option
@as_json_option
def reindex(home: Path | None, *, as_json: bool) -> None:
    """Write the catalog's search entries anew from recorded facts: once, when the last server of 0.1 is gone."""
    count = catalog.reindex(open_backend(home))
    show({"entries": count}, f"{count} entries", as_json=as_json)


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; exit status 7 if migrations are missing.")
@click.option("--create-bucket", is_flag=True, help="Also make the storage's bucket, where it is missing.")
@home_option
@as_json_option
def migrate(home: Path | None, *, check: bool, create_bucket: bool, as_json: bool) -> None:
    """Bring the database to the schema of this program. Safe while the version before it runs, and from many places."""
    settings = read(home)
    with usable(settings):
        backend = unmigrated(settings)
        if create_bucket and not check:
            backend.blobs.create()
        database = backend.database
        schema, missing = migrations.pending(database)
        migrations.refuse_newer(schema)
        done = [] if check else migrations.upgrade(database)
        if not check:
            jobs.migrate(backend)
    lines = [f"missing: {step}" for step in missing] if check else [f"done: {step}" for step in done]
    is_ahead = schema is migrations.Schema.AHEAD
    shown = "\n".join(lines) or f"the database is at {'a newer' if is_ahead else 'the newest'} schema"
    result = {"schema": schema, "missing": missing if check else [], "done": done}
    show(result, shown, as_json=as_json, exit_code=7 if check and missing else 0)
