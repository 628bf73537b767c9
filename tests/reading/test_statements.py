"""What reading costs the database: sessions and statements, whatever the length of a repository's history."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
import wire
from builders import lora_config, lora_weights, safetensors_bytes
from in_process import OWNER, App, running
from lorahub.protocol.names import RepositoryName
from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.permissions import OPERATOR
from lorahub_registry.core.repositories.service import spend_version_number
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.revisions.service import NewCommit, NewFile
from lorahub_registry.core.upstreams import service as upstreams
from lorahub_registry.features.references import service as references
from services import production
from sqlalchemy import event

MANY = 500
BASE, ADAPTER = f"{OWNER}/base", f"{OWNER}/adapter"
OWN = f"/api/lorahub/v1/models/{ADAPTER}"
TABS = (
    "",
    "/v/v1",
    "/versions",
    "/commits/main",
    "/tree/latest",
    "/tree/latest/notes",
    "/blob/latest/README.md",
    "/weights/latest",
    "/training/latest",
    "/lineage",
    "/compat",
    "/settings",
    "/upload",
    "/card",
)
MOST_OF_A_PAGE = 25
MOST = {
    f"{OWN}/versions": 6,
    f"{OWN}/revisions/v1": 6,
    f"{OWN}/aliases": 4,
    f"{OWN}/ref-log": 4,
    f"{OWN}/retention": 4,
    f"{OWN}/publishers": 4,
    f"{OWN}/statistics/v1": 8,
    f"{OWN}/signature/v1": 4,
    f"/api/models/{ADAPTER}/refs": 4,
    f"/{ADAPTER}/resolve/v1/README.md": 6,
    f"/{ADAPTER}/resolve/latest/README.md": 6,
    f"/api/models/{ADAPTER}": 8,
    f"/api/models/{ADAPTER}/tree/v1": 4,
    f"/api/models/{ADAPTER}/commits/main": 4,
}
"""Statements, by path. One of them finds out who asks."""


@dataclass
class Asked:
    """Of the database: sessions that took a connection, and statements in them."""

    sessions: int = 0
    statements: int = 0


@contextmanager
def counted(app: App) -> Iterator[Asked]:
    asked = Asked()

    def hear_session(*_: object) -> None:
        asked.sessions += 1

    def hear_statement(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.statements += not statement.startswith("BEGIN")

    engine = app.backend.database.engine
    event.listen(engine, "checkout", hear_session)
    event.listen(engine, "before_cursor_execute", hear_statement)
    try:
        with mock.patch.object(
            upstreams, "KNOWN_SECONDS", float("inf")
        ):  # asked now and then, for all requests at once
            yield asked
    finally:
        event.remove(engine, "checkout", hear_session)
        event.remove(engine, "before_cursor_execute", hear_statement)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    chosen = {"database_url": production.postgres().new_database()} if request.param == "postgres" else {}
    with running(tmp_path_factory.mktemp("asked"), **chosen) as started:
        publish(started)
        yield started


def publish(app: App) -> None:
    """A base, and an adapter of it with one version; what the base comes from, and what comes of the adapter."""
    weights = {f"model.layers.{i}.self_attn.q_proj.weight": np.full((16, 16), 0.5) for i in range(2)}
    wire.create_repo(app.client, BASE)
    config = b'{"model_type": "llama"}'
    card = made_from(f"{OWNER}/before1")
    commit(app, BASE, {"model.safetensors": safetensors_bytes(weights), "config.json": config, "README.md": card})
    wire.create_repo(app.client, ADAPTER)
    files = {
        "adapter_model.safetensors": lora_weights(),
        "adapter_config.json": json.dumps(lora_config(base=BASE)).encode(),
        "README.md": made_from(BASE),
        "notes/data.md": b"# Where it learned\n",
    }
    commit(app, ADAPTER, files)
    for level in range(1, 5):
        after = f"{OWNER}/after{level - 1}" if level > 1 else ADAPTER
        for name, base in ((f"before{level}", f"{OWNER}/before{level + 1}"), (f"after{level}", after)):
            commit(app, wire.create_repo(app.client, f"{OWNER}/{name}"), {"README.md": made_from(base)})


def made_from(base: str) -> bytes:
    return f"---\nbase_model: {base}\n---\nA card.\n".encode()


def commit(app: App, repo: str, files: dict[str, bytes]) -> None:
    lines = [
        sent(app, repo, path, content) if path.endswith(".safetensors") else wire.inline(path, content)
        for path, content in files.items()
    ]
    wire.require(wire.commit(app.client, repo, [*lines, wire.version("latest")]))


def sent(app: App, repo: str, path: str, content: bytes) -> dict[str, object]:
    target = wire.batch(app.client, repo, content)
    wire.require(app.client.put(target["actions"]["upload"]["href"], content=content))
    return wire.uploaded(path, content)


def add_versions(app: App, count: int) -> None:
    """Until there are `count`: the last as anybody publishes one, those before by what publishing calls."""
    with reading(app.backend, OPERATOR, RepositoryName.parse(ADAPTER)) as opened:
        at, branch = opened.at("main"), opened.resolve("main").reference
        repository, parent = opened.repository, at.commit
        files = {path: NewFile(file.sha256, file.size, file.is_lfs) for path, file in at.files.items()}
    assert branch is not None
    with app.backend.database.write() as session:
        for number in range(2, count):
            new = NewCommit(
                repository_id=repository.id,
                repository_public_id=repository.public_id,
                parent=parent,
                files=files,
                title=f"the {number}th",
                message="",
                author_id=parent.author_id,
                author=parent.author,
            )
            parent = revisions.insert_commit(session, new)
            revisions.create_reference(
                session,
                repository_id=repository.id,
                kind="version",
                name=f"v{number}",
                commit_id=parent.id,
                by=OWNER,
            )
        revisions.move_reference(session, branch, to=parent.id, by=OWNER)
        spend_version_number(session, repository.id, count - 1)
    commit(app, ADAPTER, {"notes/data.md": b"# What was changed\n"})


def costs(app: App) -> dict[str, Asked]:
    asked = {}
    for path in [*(f"/{ADAPTER}{tab}" for tab in TABS), *MOST]:
        wire.require(app.client.get(path))  # the token's last use is written, and facts that nobody recorded
        with counted(app) as asked[path]:
            wire.require(app.client.get(path))
    return asked


def test_reading_asks_as_little_of_500_versions_as_of_one(app: App) -> None:
    few = costs(app)
    add_versions(app, MANY)
    found = app.client.get(f"{OWN}/versions").json()
    assert [version["name"] for version in found] == [f"v{number}" for number in range(MANY, 0, -1)]
    assert found[0]["aliases"] == ["latest"]
    assert found[1]["size"] == found[-1]["size"] == found[0]["size"]
    for asked in (few, costs(app)):
        most = {path: MOST.get(path, MOST_OF_A_PAGE) for path in asked}
        assert {path: one for path, one in asked.items() if one.sessions > 2 or one.statements > most[path]} == {}


def test_what_is_open_stays_as_it_was_while_others_publish(app: App) -> None:
    name = RepositoryName.parse(ADAPTER)
    with reading(app.backend, OPERATOR, name) as opened:
        before = references.newest_version(opened)
        commit(app, ADAPTER, {"notes/data.md": b"# And again\n"})
        assert references.newest_version(opened) == before
        assert opened.at("latest").version.name == before[0]  # type: ignore[union-attr]
    with reading(app.backend, OPERATOR, name) as opened:
        assert references.newest_version(opened)[1] == before[1] + 1
