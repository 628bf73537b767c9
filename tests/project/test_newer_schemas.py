"""A newer lorahub migrates the database while processes of this one run, which go on until they are told not to."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import wire
from alembic import command
from alembic.config import Config
from jobs.worker_process import Worker
from lorahub_registry.infrastructure.database import Database
from lorahub_registry.infrastructure.database.migrate import migrations_folder
from registry_process import Registry, eventually
from services import production

EXPANDS = """
def upgrade():
    op.add_column("repositories", sa.Column("motto", sa.Text(), nullable=True))
    op.create_table("mottos", sa.Column("id", sa.Integer(), primary_key=True))
"""
TAKES_AWAY = """
def upgrade():
    op.drop_column("merge_jobs", "error")
    op.execute("UPDATE schema_floor SET revision = '9001'")
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    return (
        f"sqlite:///{tmp_path / 'registry.db'}" if request.param == "sqlite" else production.postgres().new_database()
    )


@pytest.fixture
def of_today(url: str, tmp_path: Path) -> Iterator[Registry]:
    settings = {"LORAHUB_DATABASE_URL": url, "LORAHUB_GC_INTERVAL": "PT0S", "LORAHUB_SCRUB_INTERVAL": "PT0S"}
    running = Registry(tmp_path / "today", settings).start()
    yield running
    running.kill()


@pytest.fixture
def migrate(url: str, tmp_path: Path) -> Callable[[str, str], None]:
    """As a later lorahub does it, whose newest migrations are not of this one."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrations_folder(), folder)
    revisions = [path.read_text() for path in (folder / "versions").glob("*.py")]
    newest = max(text.partition('revision = "')[2].partition('"')[0] for text in revisions)
    before = {"9000": newest, "9001": "9000"}

    def act(revision: str, does: str) -> None:
        head = f"""import sqlalchemy as sa\nfrom alembic import op\n\nrevision = "{revision}"\n"""
        (folder / "versions" / f"{revision}.py").write_text(f'{head}down_revision = "{before[revision]}"\n{does}')
        config, database = Config(), Database(url)
        config.set_main_option("script_location", str(folder))
        with database.writing() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        database.close()

    return act


def readiness(registry: Registry) -> tuple[int, str | None]:
    answer = httpx2.get(f"{registry.url}/readyz", timeout=10)
    return answer.status_code, answer.json()["checks"]["migrations"]["fault"]


def publish(registry: Registry, name: str) -> None:
    with registry.client() as client:
        repo = wire.create_repo(client, f"owner/{name}")
        wire.require(wire.commit(client, repo, [wire.inline("README.md", name.encode())]))
        assert client.get(f"/{repo}/resolve/main/README.md").content == name.encode()


def test_processes_of_the_version_before_go_on_until_they_are_told_that_they_can_t(
    of_today: Registry, migrate: Callable[[str, str], None], tmp_path: Path
) -> None:
    worker = Worker(of_today, "of-today").started()
    try:
        migrate("9000", EXPANDS)
        assert readiness(of_today) == (200, None)
        publish(of_today, "by-the-old-one")
        assert_another_one_starts(of_today, tmp_path)
        assert_what_is_said_is_so(of_today, tmp_path)
        assert worker.is_known()
        migrate("9001", TAKES_AWAY)
        assert readiness(of_today) == (503, "OutdatedSchema")
        assert worker.wait(120) == 1, "it would misread what is there; it looks once a minute"
        assert of_today.admin_command("jobs")["error"]["code"] == "InvalidConfiguration"
    finally:
        worker.kill()


def assert_another_one_starts(running: Registry, folder: Path) -> None:
    """A pod that was moved to another machine, for example."""
    settings = {**running.settings, "LORAHUB_STORAGE": str(running.home / "storage"), "LORAHUB_MIGRATE": "false"}
    another = Registry(folder / "another", settings).start()
    eventually(lambda: readiness(another) == (200, None))
    another.stop()


def assert_what_is_said_is_so(running: Registry, folder: Path) -> None:
    assert running.admin_command("migrate") == {"schema": "ahead", "missing": [], "done": []}
    observed = {one["subject"]: one for one in running.admin_command("doctor")["observations"]}
    assert observed["database schema"]["level"] == "ok"
    assert "newer" in observed["database schema"]["text"]
    assert "left out" in running.admin_command("backup", str(folder / "backup"))["error"]["message"]
    assert not list(folder.glob("backup/**/manifest.json"))
