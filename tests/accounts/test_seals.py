"""What is sealed of the audit log can't be changed without a trace, and what has to go goes with one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from jobs.worker_process import Worker
from registry_process import Registry, eventually
from services import production
from sqlalchemy.exc import IntegrityError

INSERT = "INSERT INTO audit_events (at, actor, action, subject, details) VALUES (:at, 'ana', 'a.b', 'c', '{}')"
GUARDS = ("audit_events", "audit_seals", "audit_forgotten")


@pytest.fixture(params=["sqlite", "postgres"])
def logged(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """One whose log has some events and no seal; no worker runs."""
    url = production.postgres().new_database() if request.param == "postgres" else ""
    registry = Registry(tmp_path / "logged", {"LORAHUB_DATABASE_URL": url}).start()
    for name in ("ana", "bob"):
        registry.add_user(name)
    yield registry
    registry.stop()
    registry.assert_sound()


@pytest.fixture
def sealing() -> Iterator[Callable[[Registry], None]]:
    """Has a worker seal the log, to its end."""
    with ExitStack() as workers:

        def run(registry: Registry) -> None:
            worker = Worker(registry, "sealing").start()
            workers.callback(worker.kill)
            eventually(lambda: verified(registry)["unsealed"] == 0, 60)
            worker.tell_to_end()
            worker.wait()

        yield run


def verified(registry: Registry, *options: str) -> Any:
    return registry.admin_command("audit", "verify", *options)


def unguarded(registry: Registry, *statements: str) -> None:
    """As somebody who has the database, and takes away what guards it."""
    with registry.database() as database:
        for table in GUARDS:
            on = "" if database.dialect.name == "sqlite" else f"ON {table}"
            database.exec_driver_sql(f"DROP TRIGGER IF EXISTS {table}_keeps {on}")
            database.exec_driver_sql(f"DROP TRIGGER IF EXISTS {table}_keeps_all {on}")
        for statement in statements:
            database.exec_driver_sql(statement)


def test_the_database_keeps_events_and_seals(logged: Registry, sealing: Callable[[Registry], None]) -> None:
    sealing(logged)
    refused = ["UPDATE audit_events SET actor = 'nobody'", "DELETE FROM audit_events WHERE id = 1"]
    refused += ["UPDATE audit_seals SET digest = ''", "DELETE FROM audit_seals"]
    if logged.settings["LORAHUB_DATABASE_URL"]:
        refused += ["TRUNCATE audit_events", "TRUNCATE audit_seals", "TRUNCATE audit_forgotten"]
    for statement in refused:
        with pytest.raises(IntegrityError, match="are kept as they are"), logged.database() as database:
            database.exec_driver_sql(statement)
    assert verified(logged)["ok"]


def test_what_was_changed_afterwards_is_found(logged: Registry, sealing: Callable[[Registry], None]) -> None:
    assert verified(logged)["ok"], "there is nothing to be proved"
    sealing(logged)
    sound = verified(logged)
    assert sound["ok"]
    assert sound["events"] == len(logged.sql("SELECT id FROM audit_events"))
    changes = [  # and how each is undone
        ("UPDATE audit_events SET actor = 'eve' WHERE id = 2", "UPDATE audit_events SET actor = '(operator)'"),
        ("UPDATE audit_events SET address = '192.0.2.1' WHERE id = 2", "UPDATE audit_events SET address = NULL"),
        ("UPDATE audit_events SET id = -id WHERE id = 2", "UPDATE audit_events SET id = -id WHERE id < 0"),
        (
            "UPDATE audit_seals SET digest = substr(digest, 2) || substr(digest, 1, 1)",
            "UPDATE audit_seals SET digest = substr(digest, 64) || substr(digest, 1, 63)",
        ),
        ("UPDATE audit_seals SET id = 7", "UPDATE audit_seals SET id = 1"),
    ]
    for change, back in changes:
        unguarded(logged, change)
        found = verified(logged)
        assert not found["ok"], change
        assert "events 1 to" in found["problems"][0]
        unguarded(logged, back)
        assert verified(logged) == sound, change


def test_a_log_that_was_cut_off_is_known_by_a_seal_that_was_noted(
    logged: Registry, sealing: Callable[[Registry], None]
) -> None:
    sealing(logged)
    noted = verified(logged)["seal"]["digest"]
    assert verified(logged, "--seal", noted)["ok"]
    unguarded(logged, "DELETE FROM audit_seals", "DELETE FROM audit_events WHERE id > 1")
    assert verified(logged)["ok"], "it is a log like any other"
    [problem] = verified(logged, "--seal", noted)["problems"]
    assert noted in problem


def test_the_seals_hold_in_another_database(
    logged: Registry, sealing: Callable[[Registry], None], tmp_path: Path
) -> None:
    sealing(logged)
    place = str(tmp_path / "backup")
    logged.admin_command("backup", place)
    url = "" if logged.settings["LORAHUB_DATABASE_URL"] else production.postgres().new_database()
    other = Registry(tmp_path / "other", {"LORAHUB_DATABASE_URL": url})
    assert other.admin_command("restore", place)["ok"]
    assert verified(other) == verified(logged)
    with pytest.raises(IntegrityError, match="are kept as they are"), other.database() as database:
        database.exec_driver_sql("DELETE FROM audit_events")


def test_nothing_is_sealed_before_who_began_earlier_has_ended(
    tmp_path: Path, sealing: Callable[[Registry], None]
) -> None:
    """Its number is lower, and it is seen later: it would come to lie under a seal that doesn't have it."""
    url = production.postgres().new_database()
    registry = Registry(tmp_path / "late", {"LORAHUB_DATABASE_URL": url}).start()
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as late:
            late.execute(sqlalchemy.text(INSERT), {"at": datetime.now(UTC)})
            registry.add_user("bob")
            worker = Worker(registry, "sealing").started()
            with pytest.raises(AssertionError):
                eventually(lambda: verified(registry)["events"], 8)
            late.commit()
        worker.tell_to_end()
        worker.wait()
        sealing(registry)  # a worker that begins looks at once, and needn't be waited for a minute
        rows = registry.sql("SELECT id FROM audit_events ORDER BY id")
        assert rows == [(number,) for number in range(1, len(rows) + 1)]
        assert verified(registry)["events"] == len(rows)
        assert verified(registry)["ok"]
    finally:
        engine.dispose()
        registry.stop()


def test_what_is_forgotten_is_said_to_be(logged: Registry) -> None:
    with logged.client() as client:
        client.post("/api/repos/create", json={"name": "kept", "organization": "owner"}).raise_for_status()
    before = logged.sql("SELECT max(id) FROM audit_events")[0][0]
    assert logged.admin_command("audit", "forget", "--before", "2020-01-01") == {"lastEvent": None}
    assert logged.admin_command("audit", "forget", "--before", "2100-01-01") == {"lastEvent": before}
    assert logged.sql("SELECT actor, action FROM audit_events") == [("(operator)", "audit.forget")]
    found = verified(logged)
    assert found["ok"], found["problems"]
    assert (found["forgotten"]["by"], found["forgotten"]["lastEvent"]) == ("(operator)", before)
    assert (found["events"], found["unsealed"]) == (0, 1)
    unguarded(logged, "DELETE FROM audit_forgotten")
    assert not verified(logged)["ok"], "events that are gone without a word"
