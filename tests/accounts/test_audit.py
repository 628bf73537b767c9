"""Each change leaves one row in the audit log, in its own transaction; nothing else leaves any."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy
from accounts.operations import OPERATIONS, Request, Stage, address
from registry_process import LORAHUB, Registry


def perform(stage: Stage, operation: str, request: Request) -> int:
    """As the one who may: the status."""
    method, path = address(operation, request, stage, stage.public)
    sent = {"content": request.content} if request.content is not None else {"json": request.json}
    caller = "registry admin" if OPERATIONS[operation].asks == "registry" else "owner"
    with stage.registry.client(stage.tokens[caller]) as client:
        return client.request(method, path, **({} if sent == {"json": None} else sent)).status_code


def newest(registry: Registry) -> int:
    return int(registry.sql("select coalesce(max(id), 0) from audit_events")[0][0])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_change_leaves_exactly_one_row(every_caller: Stage, operation: str) -> None:
    stage, expected = every_caller, OPERATIONS[operation].audits
    request = OPERATIONS[operation].make(stage, stage.public)
    before = newest(stage.registry)
    status = perform(stage, operation, request)
    rows = stage.registry.sql(
        "select action, actor, token_id, request_id, address from audit_events where id > :before", before=before
    )
    assert [row[0] for row in rows] == ([] if expected is None else [expected])
    if expected is not None:
        assert status < 300
        assert rows[0][1] == (stage.registry.admin if OPERATIONS[operation].asks == "registry" else "stage-owner")
        assert None not in rows[0], "who, with which token, by which request, from where"


@contextmanager
def unwritable_log(registry: Registry) -> Iterator[None]:
    """The database refuses every audit row."""
    with registry.database() as database:
        if database.dialect.name == "sqlite":
            make = "CREATE TRIGGER no_log BEFORE INSERT ON audit_events BEGIN SELECT RAISE(ABORT, 'no log'); END"
            drop = "DROP TRIGGER no_log"
        else:
            database.exec_driver_sql(
                "CREATE OR REPLACE FUNCTION no_log() RETURNS trigger LANGUAGE plpgsql AS "
                "$$BEGIN RAISE integrity_constraint_violation; END$$"
            )
            make = "CREATE TRIGGER no_log BEFORE INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION no_log()"
            drop = "DROP TRIGGER no_log ON audit_events"
        database.exec_driver_sql(make)
    try:
        yield
    finally:
        with registry.database() as database:
            database.exec_driver_sql(drop)


def content(registry: Registry) -> dict[str, list[tuple[object, ...]]]:
    """Every row that says something to somebody; bytes that wait for a commit, and when a token was used, don't."""
    with registry.database() as database:
        tables = sqlalchemy.inspect(database).get_table_names()
        spoken = [name for name in tables if name not in ("uploads", "blobs", "tokens")]
        rows = {name: sorted(database.exec_driver_sql(f"SELECT * FROM {name}").all(), key=repr) for name in spoken}
        tokens = database.exec_driver_sql("SELECT id, revoked_at FROM tokens ORDER BY id").all()
    return {**{name: [tuple(row) for row in found] for name, found in rows.items()}, "tokens": list(map(tuple, tokens))}


@pytest.mark.slow
@pytest.mark.parametrize("operation", [name for name, row in OPERATIONS.items() if row.audits])
def test_what_can_not_be_logged_does_not_happen(every_caller: Stage, operation: str) -> None:
    request = OPERATIONS[operation].make(every_caller, every_caller.public)
    every_caller.as_owner("GET", "/api/lorahub/v1/events")  # what happened before gets its number
    before = content(every_caller.registry)
    with unwritable_log(every_caller.registry):
        assert perform(every_caller, operation, request) >= 400
    assert content(every_caller.registry) == before


def test_the_log_is_exported_in_order(own_registry: Registry) -> None:
    for name in ("ana", "bob"):
        own_registry.add_user(name)

    def export(*bounds: str) -> list[dict[str, object]]:
        command = [LORAHUB, "admin", "audit", "export", "--home", str(own_registry.home), *bounds]
        environment = {**os.environ, **own_registry.settings}
        printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        return [json.loads(line) for line in printed.splitlines()]

    rows = export()
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert [row["subject"] for row in rows if row["action"] == "user.create"] == ["owner", "ana", "bob"]
    assert {row["actor"] for row in rows} == {"(operator)"}
    middle = str(rows[0]["at"])[:10]
    assert export("--since", middle) == rows
    assert export("--until", middle) == []
    with own_registry.client() as client:
        assert client.get("/api/lorahub/v1/audit").json() == rows[::-1]
