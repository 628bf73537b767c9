"""`lorahub serve` and `lorahub admin …`.

The client's command line reaches them by name, so that it never imports the registry.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import uvicorn
from click.core import ParameterSource
from fastapi import FastAPI
from lorahub.errors import InvalidConfiguration, LorahubError

from lorahub_registry.app import create_app
from lorahub_registry.command_line import as_json_option as _json
from lorahub_registry.command_line import home_option as _home
from lorahub_registry.command_line import open_backend as _open
from lorahub_registry.command_line import settings_of, usable
from lorahub_registry.command_line import show as _print
from lorahub_registry.features.accounts import service as accounts
from lorahub_registry.features.accounts.permissions import OPERATOR
from lorahub_registry.features.audit.service import all_events
from lorahub_registry.features.catalog import service as catalog
from lorahub_registry.features.maintenance import service as maintenance
from lorahub_registry.features.operations.census import CensusCollector
from lorahub_registry.features.quotas import service as quotas
from lorahub_registry.infrastructure import logs, metrics
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import migrate as migrations
from lorahub_registry.infrastructure.web.server import FINISH_SECONDS, Server
from lorahub_registry.keeping_commands import COMMANDS as KEEPING

ADMIN = "owner"  # `admin` is the address of a page
TOKEN_FILE = "admin-token"  # noqa: S105 (a file name)
DEFAULT_PORT = 8017
BY_OPERATOR = OPERATOR.name
"""The actor of what is done on the machine itself, in the audit log."""


# --- serve ------------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--home", type=click.Path(path_type=Path), help="Folder of the database, the blobs and the secret.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="Port to listen on; 0 takes a free one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line once it listens: url, admin, token.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="What the log's lines are (default: text).")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least level logged.")
def serve(
    home: Path | None, host: str, port: int, log_format: str | None, log_level: str | None, *, as_json: bool
) -> None:
    """Run a registry: SQLite and a folder, made on the first start."""
    _take_options(LORAHUB_LOG_FORMAT=log_format, LORAHUB_LOG_LEVEL=log_level)
    backend = _open(home)
    _observe(backend)
    token = _first_admin(backend)
    listener = _listen(host, port)
    url = f"http://{_shown(host)}:{listener.getsockname()[1]}"
    app = create_app(backend)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        forwarded_allow_ips=backend.settings.trusted_proxies,
        server_header=False,
        timeout_graceful_shutdown=FINISH_SECONDS,
    )
    server = Server(
        config,
        app,
        lambda: _announce(url, token, backend, as_json=as_json),
        drain_seconds=backend.settings.drain_seconds,
    )
    with _worker_beside(backend):
        server.run(sockets=[listener])


def _take_options(**options: str | None) -> None:
    """Into the environment, from which this process and the worker beside it read their settings."""
    os.environ.update({name: value for name, value in options.items() if value is not None})


def _observe(backend: Backend) -> None:
    """Logs and metrics. Raises `InvalidConfiguration`."""
    logs.configure(backend.settings.log_format, backend.settings.log_level)
    if backend.settings.metrics_address is not None:
        metrics.REGISTRY.register(CensusCollector(backend))
        metrics.serve(backend.settings.metrics_address)


@contextmanager
def _worker_beside(backend: Backend) -> Iterator[None]:
    """A process of its own: its arithmetic would hold up every request, and its memory isn't the server's."""
    if not backend.settings.worker:
        yield
        return
    command = [sys.executable, "-m", "lorahub_registry.worker", str(backend.settings.registry_home), str(os.getpid())]
    with subprocess.Popen(command) as process:  # noqa: S603 (our own program, our own arguments)
        try:
            yield
        finally:
            process.terminate()


@click.command()
@click.option("--home", type=click.Path(path_type=Path), help="Folder of the registry.")
@click.option("--name", help="Of this worker alone (default: this host's name and a number).")
def worker(home: Path | None, name: str | None) -> None:
    """Run background jobs: one more worker beside the one that `serve` starts, on this machine or any other.

    Told to end (SIGTERM), it finishes what it has in hand, and leaves the rest to the others.
    """
    from lorahub_registry import worker as jobs

    backend = _open(home)
    _observe(backend)
    jobs.run(backend, name=name)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise InvalidConfiguration(
            f"can't listen on {host}:{port}: {error.strerror}",
            hint="is a registry running there already? Choose another --port, or 0 for any",
        ) from error
    listener.listen(1024)
    return listener


def _shown(host: str) -> str:
    """What a client on this machine can connect to."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 (it is compared, not bound)
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _announce(url: str, token: str | None, backend: Backend, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"url": url, "admin": ADMIN, "token": token}))
    else:
        click.echo(_welcome(url, token, backend))
    sys.stdout.flush()


def _welcome(url: str, token: str | None, backend: Backend) -> str:
    shown_token = token or "(the one printed on the first start)"
    where = "" if url == f"http://127.0.0.1:{DEFAULT_PORT}" else f" --endpoint {url}"
    return (
        f"lorahub registry at {url}   data: {backend.settings.registry_home}\n\n"
        f"  Admin: {ADMIN}   Token: {shown_token}\n\n"
        f"  First push, from another terminal:\n"
        f"    echo {shown_token} | lorahub login {url} --token-file -\n"
        f"    lorahub push ./my-adapter {ADMIN}/my-adapter{where}\n"
        f"    lorahub pull {ADMIN}/my-adapter{where}\n\n"
        f"  Ctrl-C stops it."
    )


def _first_admin(backend: Backend) -> str | None:
    """Makes the admin account on the first start. Its token is kept in the home, readable by its owner only, so that
    a restart can print it again; delete the file and it is shown no more.
    """
    path = backend.settings.registry_home / TOKEN_FILE
    if backend.settings.first_admin and accounts.first_admin(backend) is None:
        admin = accounts.add_user(backend, ADMIN, by=BY_OPERATOR, is_admin=True)
        token, _ = accounts.issue_token(backend, admin.id, by=BY_OPERATOR, name="first start", scope="admin")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
    return path.read_text().strip() if path.exists() else None


# --- admin ------------------------------------------------------------------------------------------------------------


@click.group()
def admin() -> None:
    """Look after a registry on its own machine."""


@admin.group()
def user() -> None:
    """Accounts of people."""


@user.command("add")
@click.argument("name")
@click.option("--fullname", default="", help="Shown on pages.")
@click.option("--admin", "is_admin", is_flag=True, help="An administrator of the whole registry.")
@_home
@_json
def add_user(name: str, fullname: str, home: Path | None, *, is_admin: bool, as_json: bool) -> None:
    """Add a user and print a token, shown this once."""
    backend = _open(home)
    account = accounts.add_user(backend, name, by=BY_OPERATOR, is_admin=is_admin, fullname=fullname)
    token, _ = accounts.issue_token(backend, account.id, by=BY_OPERATOR, name="first token", scope="admin")
    _print({"user": account.name, "token": token}, f"added {account.name}   token: {token}", as_json=as_json)


@user.command("ls")
@_home
@_json
def list_users(home: Path | None, *, as_json: bool) -> None:
    """List users and organisations."""
    rows = [
        {
            "name": account.name,
            "kind": account.kind,
            "admin": account.is_admin,
            "disabled": account.disabled_at is not None,
            "createdAt": account.created_at.isoformat(),
        }
        for account in accounts.all_accounts(_open(home))
    ]
    lines = [f"{row['name']:32} {row['kind']:12} {'disabled' if row['disabled'] else ''}" for row in rows]
    _print(rows, "\n".join(lines), as_json=as_json)


@user.command("disable")
@click.argument("name")
@click.option("--undo", is_flag=True, help="Let the user in again.")
@_home
@_json
def disable_user(name: str, home: Path | None, *, undo: bool, as_json: bool) -> None:
    """Stop all tokens of a user at once; repositories stay."""
    account = accounts.set_user_disabled(_open(home), name, by=BY_OPERATOR, is_disabled=not undo)
    is_disabled = account.disabled_at is not None
    shown = f"{account.name} is {'disabled' if is_disabled else 'enabled'}"
    _print({"user": account.name, "disabled": is_disabled}, shown, as_json=as_json)


@admin.command("token")
@click.argument("user_name", metavar="USER")
@click.option("--name", default="made by the operator", show_default=True)
@click.option("--scope", type=click.Choice(["read", "write", "admin"]), default="write", show_default=True)
@click.option("--namespace", help="Good for this namespace only.")
@click.option("--days", type=click.IntRange(1, accounts.MAX_TOKEN_DAYS), help="Days until it expires.")
@_home
@_json
def make_token(
    user_name: str,
    name: str,
    scope: str,
    namespace: str | None,
    days: int | None,
    home: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print a new token for USER, shown this once."""
    backend = _open(home)
    account = accounts.find_account(backend, user_name)
    lifetime = None if days is None else timedelta(days=days)
    token, _ = accounts.issue_token(
        backend, account.id, by=BY_OPERATOR, name=name, scope=scope, namespace=namespace, lifetime=lifetime
    )
    _print({"user": account.name, "token": token, "scope": scope}, token, as_json=as_json)


class _Amount(click.ParamType[int | None]):
    """A number, with k, M, G or T for thousands and so on; `none` is no limit, `default` the registry's."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value in ("none", "default"):
            return 0 if value == "none" else None
        match = re.fullmatch(r"(\d{1,15})([kMGT]?)B?", value)
        if match is None:
            self.fail(f"{value!r} is no amount: 250, 40GB, none or default", param, ctx)
        thousands: int = 1000 ** " kMGT".index(match[2] or " ")
        return int(match[1]) * thousands


@admin.command()
@click.argument("namespace")
@click.option("--bytes", "byte_quota", type=_Amount(), help="Most bytes it may keep.")
@click.option("--repositories", "repository_quota", type=_Amount(), help="Most repositories it may have.")
@_home
@_json
def quota(namespace: str, home: Path | None, *, as_json: bool, **given: int | None) -> None:
    """Show, and set, what NAMESPACE uses and may use: 250, 40GB, none, or default for the registry's own limit."""
    backend = _open(home)
    context = click.get_current_context()
    wanted = {
        name: value
        for name, value in given.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    use = (
        quotas.set_quota(backend, namespace, by=BY_OPERATOR, **wanted) if wanted else quotas.use_of(backend, namespace)
    )
    shown = [
        f"{use.namespace}",
        f"  bytes         {use.bytes.used} of {use.bytes.limit or 'any number'}, {use.reserved} of them in uploads",
        f"  repositories  {use.repositories.used} of {use.repositories.limit or 'any number'}",
    ]
    _print(use.as_json(), "\n".join(shown), as_json=as_json)


@admin.command("recount-quotas")
@_home
@_json
def recount_quotas(home: Path | None, *, as_json: bool) -> None:
    """Count anew what each namespace keeps, after an older lorahub wrote to this database."""
    count = quotas.recount(_open(home))
    _print({"namespaces": count}, f"counted {count} namespaces", as_json=as_json)


@admin.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--grace-hours", type=float, help="Keep unreferenced bytes younger than this (default: 24).")
@_home
@_json
def gc(grace_hours: float | None, home: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Collect bytes that nothing refers to. Safe while the registry runs."""
    backend = _open(home)
    grace = backend.settings.blob_grace if grace_hours is None else timedelta(hours=grace_hours)
    report = maintenance.collect_garbage(backend, grace=grace, is_dry_run=dry_run)
    _print(report.as_json(), str(report), as_json=as_json)


@admin.command()
@click.option("--deep", is_flag=True, help="Read and hash every stored byte.")
@_home
@_json
def fsck(home: Path | None, *, deep: bool, as_json: bool) -> None:
    """Prove the registry's invariants; exit status 7 if one doesn't hold."""
    report = maintenance.check_invariants(_open(home), is_deep=deep)
    _print(report.as_json(), str(report), as_json=as_json)
    if report.problems:
        raise SystemExit(7)


@admin.group("jobs", invoke_without_command=True)
@click.pass_context
@_home
@_json
def jobs_group(context: click.Context, home: Path | None, *, as_json: bool) -> None:
    """List workers, and jobs that are not over or failed with a fault."""
    if context.invoked_subcommand is None:
        from lorahub_registry.features.jobs import service as jobs

        overview = jobs.overview(_open(home))
        _print(overview.as_json(), str(overview), as_json=as_json)


@admin.group()
def audit() -> None:
    """The log of changes: who did what, and when."""


_TIME = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"])


@audit.command("export")
@click.option("--since", type=_TIME, help="From this time on (UTC).")
@click.option("--until", type=_TIME, help="Before this time (UTC).")
@_home
def export_audit(since: datetime | None, until: datetime | None, home: Path | None) -> None:
    """Print every event as a line of JSON, oldest first."""
    for event in all_events(_open(home), since=_in_utc(since), until=_in_utc(until)):
        click.echo(json.dumps(event.as_json()))


def _in_utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.replace(tzinfo=UTC)


@jobs_group.command("requeue")
@click.argument("job", metavar="ID")
@_home
@_json
def requeue_job(job: str, home: Path | None, *, as_json: bool) -> None:
    """Let a job that failed or hangs be tried anew. ID is one that `admin jobs` lists, or a merge's."""
    from lorahub_registry.features.jobs import service as jobs

    requeued = jobs.requeue(_open(home), job, by=OPERATOR.name)
    _print({"job": requeued}, f"{requeued} is queued again", as_json=as_json)


@admin.command()
@_home
@_json
def doctor(home: Path | None, *, as_json: bool) -> None:
    """Try out the database and the storage; exit status 8 if something that is needed doesn't work."""
    examination = maintenance.examine(Backend.open(settings_of(home)))
    _print(examination.as_json(), str(examination), as_json=as_json)
    if not examination.is_healthy:
        raise SystemExit(8)


@admin.command()
@_home
@_json
def reindex(home: Path | None, *, as_json: bool) -> None:
    """Write the catalog's search entries anew from recorded facts: once, when the last server of 0.1 is gone."""
    count = catalog.reindex(_open(home))
    _print({"entries": count}, f"{count} entries", as_json=as_json)


@admin.command()
@click.option("--check", is_flag=True, help="Change nothing; exit status 7 if migrations are missing.")
@click.option("--create-bucket", is_flag=True, help="Also make the storage's bucket, where it is missing.")
@_home
@_json
def migrate(home: Path | None, *, check: bool, create_bucket: bool, as_json: bool) -> None:
    """Bring the database to the schema of this program. Safe while the version before it runs, and from many places."""
    settings = settings_of(home)
    with usable(settings):
        backend = Backend.open(settings)
        if create_bucket and not check:
            backend.blobs.create()
        database = backend.database
        schema, missing = migrations.pending(database)
        migrations.refuse_newer(schema)
        done = [] if check else migrations.upgrade(database)
    lines = [f"missing: {step}" for step in missing] if check else [f"done: {step}" for step in done]
    shown = "\n".join(lines) or "the database is at the newest schema"
    _print({"schema": schema, "missing": missing if check else [], "done": done}, shown, as_json=as_json)
    if check and missing:
        raise SystemExit(7)


for command in KEEPING:
    admin.add_command(command)


def asgi() -> FastAPI:
    """For other ASGI servers: `uvicorn --factory lorahub_registry.commands:asgi`, settings from the environment."""
    return create_app(_open(None))


__all__ = ["LorahubError", "admin", "asgi", "serve"]
