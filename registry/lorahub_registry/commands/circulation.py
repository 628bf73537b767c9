"""`lorahub admin …`: what is taken out of circulation."""

from pathlib import Path

import click
from lorahub.protocol.digests import parse_sha256
from lorahub.protocol.names import RepositoryName

from lorahub_registry.commands.registry import as_json_option, home_option, open_backend, show
from lorahub_registry.core.accounts.permissions import OPERATOR
from lorahub_registry.core.blobs import service as blobs
from lorahub_registry.core.repositories import service as repositories

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
