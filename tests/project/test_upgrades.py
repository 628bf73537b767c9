"""A database of the version before, with data: brought to the newest schema, it says what it said, and goes on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import wire
from alembic import command
from alembic.config import Config
from builders import lora_config, lora_weights
from lorahub_registry.infrastructure.database import Database
from lorahub_registry.infrastructure.database.migrate import migrations_folder
from registry_process import Registry
from services import production

BEFORE = "0003"
QUERIES: list[dict[str, Any]] = [
    {},
    {"search": "sql"},
    {"filter": "sql"},
    {"filter": "base_model:acme/tiny-llama", "sort": "downloads"},
    {"base": "acme/tiny-llama", "rank": "8.."},
    {"fits": "vllm", "target": "q_proj"},
    {"num_parameters": "min:300"},
    {"sort": "trendingScore", "limit": 1},
]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    return f"sqlite:///{tmp_path / 'old.db'}" if request.param == "sqlite" else production.postgres().new_database()


@pytest.fixture
def today(tmp_path: Path) -> Iterator[Registry]:
    """A registry of this version, with repositories, versions, a branch, and a day's downloads."""
    registry = Registry(tmp_path / "home", settings={"LORAHUB_DATABASE_URL": f"sqlite:///{tmp_path / 'new.db'}"})
    registry.start()
    with registry.client() as client:
        for number, (name, rank) in enumerate({"text-to-sql": 4, "chat": 8, "private-sql": 16}.items()):
            repo = wire.create_repo(client, f"owner/{name}", private=name.startswith("private"))
            weights = lora_weights(rank=rank, seed=number)
            wire.upload(client, repo, weights)
            lines = [
                wire.inline("README.md", f"---\ntags: [{name.rpartition('-')[2]}]\n---\n".encode()),
                wire.inline("adapter_config.json", json.dumps(lora_config(rank=rank)).encode()),
                wire.uploaded("adapter_model.safetensors", weights),
                wire.version("latest"),
            ]
            assert wire.commit(client, repo, lines).status_code == 200
        client.post("/api/models/owner/chat/branch/draft", json={})
        for _ in range(2):
            client.get("/owner/chat/resolve/main/adapter_model.safetensors")
    yield registry
    registry.kill()


def said(registry: Registry) -> dict[str, Any]:
    """Everything that readers can see, but for the counts that this reading adds to."""
    with registry.client() as client:
        lists = [[model["id"] for model in client.get("/api/models", params=query).json()] for query in QUERIES]
        models = [client.get(f"/api/models/{repo}", params={"blobs": True}).json() for repo in lists[0]]
        files = {
            f"{repo}/{path}": wire.sha256(client.get(f"/{repo}/resolve/v1/{path}").content)
            for repo in lists[0]
            for path in wire.files(client, repo, "v1")
        }
        logs = [client.get(f"/api/lorahub/v1/models/{repo}/ref-log").json() for repo in lists[0]]
        versions = [client.get(f"/api/lorahub/v1/models/{repo}/versions").json() for repo in lists[0]]
        checks = [client.get(f"/api/lorahub/v1/models/{repo}/check/main").json() for repo in lists[0]]
    for model in models:
        del model["downloads"], model["downloadsAllTime"]
    return {"lists": lists, "models": models, "files": files, "logs": logs, "versions": versions, "checks": checks}


def make_old(url: str, source: str) -> None:
    """A database of the schema before at `url`, with the rows of `source` as that version would have written them."""
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, BEFORE)
    old, new = sqlalchemy.MetaData(), sqlalchemy.MetaData()
    old.reflect(database.engine)
    reading = sqlalchemy.create_engine(source)
    new.reflect(reading, only=[name for name in old.tables if name != "alembic_version"])
    with reading.connect() as rows, database.engine.begin() as connection:
        for table in new.sorted_tables:
            columns = [column for column in table.columns if column.name in old.tables[table.name].columns]
            found = [dict(row._mapping) for row in rows.execute(sqlalchemy.select(*columns))]
            if found:
                connection.execute(old.tables[table.name].insert(), found)
        heads = rows.execute(
            sqlalchemy.text(
                "SELECT refs.repository_id, commit_facts.tags FROM refs JOIN commit_facts USING (commit_id)"
                " WHERE space = 'heads' AND name = 'main'"
            ).columns(tags=sqlalchemy.JSON)
        )
        tags = [{"repository_id": repository, "tag": tag} for repository, found in heads for tag in found]
        connection.execute(old.tables["repository_tags"].insert(), tags)
        if not database.is_sqlite:
            for name in ("accounts", "repositories", "refs", "ref_moves", "audit_events", "tokens"):
                last = f"SELECT setval('{name}_id_seq', (SELECT coalesce(max(id), 1) FROM {name}))"
                connection.execute(sqlalchemy.text(last))
    reading.dispose()
    database.close()


def test_a_registry_of_the_version_before_goes_on_with_everything(url: str, today: Registry) -> None:
    expected = said(today)
    assert expected["lists"][1:3] == [["owner/private-sql", "owner/text-to-sql"]] * 2
    today.stop()
    make_old(url, today.settings["LORAHUB_DATABASE_URL"])
    upgraded = Registry(today.home, settings={"LORAHUB_DATABASE_URL": url}).start()
    try:
        assert said(upgraded) == expected
        upgraded.assert_sound()
        with upgraded.client() as client:
            repo = wire.create_repo(client, "owner/afterwards")
            made = wire.commit(client, repo, [wire.inline("README.md", b"---\ntags: [sql]\n---\n")])
            assert made.status_code == 200, made.text
            found = client.get("/api/models", params={"filter": "sql"}).json()
        assert [model["id"] for model in found] == [repo, *expected["lists"][2]]
    finally:
        upgraded.kill()
