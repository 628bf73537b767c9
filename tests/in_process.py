"""The registry's app in the test's own process, on a real database and a real storage, without a socket."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lorahub_registry.app import create_app
from lorahub_registry.core.accounts import service as accounts
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import migrate
from lorahub_registry.infrastructure.storage import BlobStore
from lorahub_registry.settings import Settings
from starlette.testclient import TestClient

OWNER = "owner"


@dataclass(frozen=True)
class App:
    backend: Backend
    client: TestClient
    """The owner's, an administrator."""


@contextmanager
def running(home: Path, *, around: type[BlobStore] | None = None, **settings: object) -> Iterator[App]:
    """`around` is put between the registry and its storage."""
    chosen = {"rate_limit_api": 0, "rate_limit_resolve": 0, "rate_limit_pages": 0, "rate_limit_login": 0, **settings}
    opened = Backend.open(Settings(registry_home=home, worker=False, **chosen))  # type: ignore[arg-type]
    backend = opened if around is None else replace(opened, blobs=around(opened.blobs))
    migrate.upgrade(backend.database)
    owner = accounts.add_user(backend, OWNER, by="test", is_admin=True)
    token, _ = accounts.issue_token(backend, owner.id, by="test", name="test", scope="admin")
    headers = {"Authorization": f"Bearer {token}"}
    with TestClient(create_app(backend, "testserver"), headers=headers, raise_server_exceptions=False) as client:
        yield App(backend, client)
