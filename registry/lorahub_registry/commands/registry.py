"""What the operator's commands share: the registry they work on, and how they answer."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from lorahub.errors import InvalidConfiguration
from lorahub.protocol.documents import document_of

from lorahub_registry.infrastructure import jobs
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import migrate as migrations
from lorahub_registry.infrastructure.database.failures import explained
from lorahub_registry.settings import Settings
from lorahub_registry.settings.reading import read

home_option = click.option(
    "--home", type=click.Path(path_type=Path), help="Folder of the registry (default: per user)."
)
as_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


def open_backend(home: Path | None) -> Backend:
    """What `unmigrated` gives, its database at a schema that this program can serve. Raises `InvalidConfiguration`."""
    settings = read(home)
    with usable(settings):
        backend = unmigrated(settings)
        if settings.migrate:
            upgrade(backend)
        else:
            migrations.require_servable(backend.database)
    return backend


def upgrade(backend: Backend) -> list[str]:
    """Our tables and, where any of them changed, the job engine's; the steps that were done."""
    done = migrations.upgrade(backend.database)
    if done:
        jobs.migrate(backend)
    return done


def unmigrated(settings: Settings) -> Backend:
    """The backend of these settings, until the command ends."""
    backend = Backend.open(settings)
    if context := click.get_current_context(silent=True):
        context.call_on_close(backend.database.close)
    return backend


@contextmanager
def usable(settings: Settings) -> Iterator[None]:
    """Raises `InvalidConfiguration` where the home can't be used, `Unavailable` where the database isn't there."""
    try:
        with explained():
            yield
    except OSError as error:
        raise InvalidConfiguration(
            f"can't use {settings.registry_home}: {error.strerror}", hint="choose another folder with --home"
        ) from error


def show(result: Any, shown: str, *, as_json: bool, exit_code: int = 0) -> None:
    """Ends the program with any other exit status than 0."""
    context = click.get_current_context()
    command = ".".join(context.command_path.split()[1:])
    is_json = as_json or _asks_for_json(context.find_root().obj or {})
    click.echo(json.dumps(document_of(command, result, exit_code=exit_code)) if is_json else shown)
    if exit_code:
        raise SystemExit(exit_code)


def _asks_for_json(flags: Mapping[str, Any]) -> bool:
    """What stood before the command, or stands in the environment, as for the client's commands."""
    chosen = flags.get("format") or os.environ.get("LORAHUB_FORMAT")
    return bool(flags.get("json")) or chosen == "json"
