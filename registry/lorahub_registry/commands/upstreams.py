"""`lorahub admin upstream …`: hubs whose repositories are served here."""

import sys
from pathlib import Path

import click
from lorahub.protocol.names import RepositoryName

from lorahub_registry.commands.registry import as_json_option, home_option, open_backend, show
from lorahub_registry.core.accounts.permissions import OPERATOR
from lorahub_registry.core.upstreams import service as upstreams
from lorahub_registry.core.upstreams.service import Described


@click.group()
def upstream() -> None:
    """Serve repositories of other hubs under their own names."""


@upstream.command("add")
@click.argument("name")
@click.argument("endpoint")
@click.option("--allow", multiple=True, required=True, help="organisation/*, organisation/name, or * for all; again …")
@click.option("--license", "licenses", multiple=True, help="Only repositories under this licence; again for another.")
@click.option("--host", "hosts", multiple=True, help="Host to which it leads for files; *.host for all below it.")
@click.option("--private", is_flag=True, help="For accounts of this registry only.")
@click.option("--token-stdin", is_flag=True, help="Read the hub's token from standard input; it is kept sealed.")
@home_option
@as_json_option
def add(
    name: str,
    endpoint: str,
    allow: tuple[str, ...],
    licenses: tuple[str, ...],
    hosts: tuple[str, ...],
    home: Path | None,
    *,
    private: bool,
    token_stdin: bool,
    as_json: bool,
) -> None:
    """Serve what ENDPOINT has, as far as --allow says; running servers know it within seconds."""
    definition = {
        "name": name,
        "endpoint": endpoint,
        "allow": list(allow),
        "licenses": list(licenses),
        "hosts": list(hosts),
        "private": private,
    }
    added = upstreams.add(open_backend(home), OPERATOR, definition, _token() if token_stdin else None)
    show(added.model_dump(), f"{added.name}: {added.endpoint} for {', '.join(added.allow)}", as_json=as_json)


@upstream.command("ls")
@home_option
@as_json_option
def list_all(home: Path | None, *, as_json: bool) -> None:
    """List upstreams, and what is here of them."""
    found = upstreams.described(open_backend(home))
    show([_as_json(one) for one in found], "\n".join(map(_line, found)), as_json=as_json)


@upstream.command("check")
@click.argument("name")
@click.argument("repository")
@home_option
@as_json_option
def check(name: str, repository: str, home: Path | None, *, as_json: bool) -> None:
    """Ask the upstream NAME what REPOSITORY is, and keep nothing of it."""
    found = upstreams.try_out(open_backend(home), OPERATOR, name, RepositoryName.parse(repository))
    size = sum(file.size for file in found.files)
    result = {
        "repository": str(found.name),
        "commit": found.commit,
        "files": len(found.files),
        "bytes": size,
        "license": found.license,
        "gated": found.gated,
    }
    shown = f"✓ {found.name} at {found.commit[:12]}: {len(found.files)} files, {size / 1e6:.1f} MB, {found.license}"
    show(result, shown, as_json=as_json)


@upstream.command("token")
@click.argument("name")
@click.option("--none", "is_none", is_flag=True, help="Forget the one that is kept.")
@home_option
@as_json_option
def token(name: str, home: Path | None, *, is_none: bool, as_json: bool) -> None:
    """Read the token for the upstream NAME from standard input, and keep it sealed."""
    upstreams.set_token(open_backend(home), OPERATOR, name, None if is_none else _token())
    show({"upstream": name, "has_token": not is_none}, f"{name} has {'no' if is_none else 'a'} token", as_json=as_json)


@upstream.command("rm")
@click.argument("name")
@home_option
@as_json_option
def remove(name: str, home: Path | None, *, as_json: bool) -> None:
    """Ask the upstream NAME nothing any more. What it has brought stays, and is served."""
    upstreams.remove(open_backend(home), OPERATOR, name)
    show({"upstream": name}, f"{name} is asked nothing any more", as_json=as_json)


@upstream.command("keep")
@click.argument("repository")
@click.option("--let-go", is_flag=True, help="The other way round: it makes room for others again.")
@home_option
@as_json_option
def keep(repository: str, home: Path | None, *, let_go: bool, as_json: bool) -> None:
    """Keep the files of REPOSITORY that are here, however long nobody reads them."""
    found = upstreams.keep(open_backend(home), OPERATOR, RepositoryName.parse(repository), is_kept=not let_go)
    shown = f"{found.full_name} {'is kept' if found.is_kept else 'makes room when others need it'}"
    show({"repository": found.full_name, "kept": found.is_kept}, shown, as_json=as_json)


def _token() -> str:
    """Raises `UsageError` for what no header can hold."""
    text = sys.stdin.readline().strip()
    if not text or len(text) > 1000 or not (text.isascii() and text.isprintable()) or " " in text:
        raise click.UsageError("a token is one line of printable characters, on standard input")
    return text


def _as_json(one: Described) -> dict[str, object]:
    return {
        **one.upstream.model_dump(),
        "by_settings": one.is_set,
        "has_token": one.has_token,
        "quiet_until": None if one.quiet_until is None else one.quiet_until.isoformat(),
        "fault": one.fault,
        "repositories": one.repositories,
        "bytes": one.bytes,
    }


def _line(one: Described) -> str:
    held = f"{one.repositories} repositories, {one.bytes / 1e9:.2f} GB"
    fault = f"\n  {one.fault}" if one.fault and one.quiet_until else ""
    return f"{one.upstream.name:16} {one.upstream.endpoint:40} {held}  {', '.join(one.upstream.allow)}{fault}"
