"""`lorahub serve` and `lorahub worker`."""

import asyncio
import functools
import gc
import json
import os
import socket
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import click
import uvicorn
from fastapi import FastAPI
from lorahub.errors import InvalidConfiguration

from lorahub_registry.app import create_app
from lorahub_registry.commands.beside import Beside
from lorahub_registry.commands.registry import open_backend
from lorahub_registry.core.accounts import service as accounts
from lorahub_registry.core.accounts.permissions import OPERATOR
from lorahub_registry.core.blobs.service import require_its_storage
from lorahub_registry.core.quotas import service as quotas
from lorahub_registry.features.merges import device as merge_device
from lorahub_registry.infrastructure import jobs, logs, metrics
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.web.connections import IDLE_SECONDS, Bounds, Connection, Door
from lorahub_registry.infrastructure.web.proxies import Proxies
from lorahub_registry.infrastructure.web.room import make_room, room_for
from lorahub_registry.infrastructure.web.server import FINISH_SECONDS, WebServer
from lorahub_registry.operations.probes.census import CensusCollector
from lorahub_registry.settings import Settings

ADMIN = "owner"  # `admin` is the address of a page
TOKEN_FILE = "admin-token"  # noqa: S105 (a file name)
DEFAULT_PORT = 8017
BACKLOG = 512
"""Connections that wait to be taken; below the descriptors that are free, as they may all be taken at once."""


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
    backend = open_backend(home)
    require_its_storage(backend)
    _observe(backend)
    token = _first_admin(backend)
    listener = _listen(host, port)
    url = f"http://{_shown(host)}:{listener.getsockname()[1]}"
    make_room(backend.settings)
    app = create_app(backend, host)
    config = _configure(app, backend.settings)
    server = WebServer(
        config,
        app,
        lambda: _announce(url, token, backend, as_json=as_json),
        drain_seconds=backend.settings.drain_seconds,
    )
    gc.freeze()  # or each full collection walks through all that was imported, while a request waits
    with _worker_beside(backend):
        server.run(sockets=[listener])


def _configure(app: FastAPI, settings: Settings) -> uvicorn.Config:
    bounds = Bounds(
        connections=room_for(settings).connections,
        connections_per_address=settings.connections_per_address,
        header_seconds=settings.header_seconds,
        least_bytes_per_second=settings.least_bytes_per_second,
        stall_seconds=settings.stall_seconds,
    )
    connect = functools.partial(Connection, Door(bounds, Proxies(settings)))
    return uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], connect),  # it is called as a class is
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=settings.trusted_proxies is not None,
        forwarded_allow_ips=settings.trusted_proxies or "",
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=FINISH_SECONDS,
    )


def _take_options(**options: str | None) -> None:
    """Into the environment, from which this process and the worker beside it read their settings."""
    os.environ.update({name: value for name, value in options.items() if value is not None})


def _observe(backend: Backend) -> None:
    """Logs and metrics. Raises `InvalidConfiguration`."""
    logs.configure(backend.settings.log_format, backend.settings.log_level)
    if backend.settings.metrics_address is not None:
        metrics.REGISTRY.register(CensusCollector(backend))
        metrics.serve(backend.settings.metrics_address)


def _worker_beside(backend: Backend) -> AbstractContextManager[object]:
    """A process of its own: its arithmetic would hold up every request, and its memory isn't the server's."""
    if not backend.settings.worker:
        return nullcontext()
    merge_device.require(backend.settings)
    return Beside("lorahub_registry.worker", [str(backend.settings.registry_home), str(os.getpid())])


@click.command()
@click.option("--home", type=click.Path(path_type=Path), help="Folder of the registry.")
@click.option("--name", help="Of this worker alone (default: this host's name and a number).")
def worker(home: Path | None, name: str | None) -> None:
    """Run background jobs: one more worker beside the one that `serve` starts, on this machine or any other.

    Told to end (SIGTERM), it finishes what it has in hand, and leaves the rest to the others.
    """
    from lorahub_registry import worker as program

    backend = jobs.share(open_backend(home))
    require_its_storage(backend)
    _observe(backend)
    merge_device.require(backend.settings)
    program.run(backend, name=name)


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
    listener.listen(BACKLOG)
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
        f"    lorahub login {url}      (it asks for the token)\n"
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
        admin = accounts.add_user(backend, ADMIN, by=OPERATOR.name, is_admin=True)
        _leave_unlimited(backend)
        token, _ = accounts.issue_token(backend, admin.id, by=OPERATOR.name, name="first start", scope="admin")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
    return path.read_text().strip() if path.exists() else None


def _leave_unlimited(backend: Backend) -> None:
    """It is his machine, and our quotas are for others. Those that he set himself hold for him too."""
    chosen = backend.settings.model_fields_set
    wanted = {"byte_quota": "quota_bytes", "repository_quota": "quota_repositories"}
    limits = {own: 0 for own, setting in wanted.items() if setting not in chosen}
    if limits:
        quotas.set_quota(backend, ADMIN, by=OPERATOR.name, **limits)


def asgi() -> FastAPI:
    """For other ASGI servers: `uvicorn --factory lorahub_registry.commands:asgi`, settings from the environment."""
    return create_app(open_backend(None))
