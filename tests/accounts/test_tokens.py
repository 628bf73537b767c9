"""What a token makes, another token or a browser's session, ends with it, and leaves nothing behind."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import httpx2
import pytest
from registry_process import Registry

V1 = "/api/lorahub/v1"


@pytest.fixture
def ending(registry: Registry, user: tuple[str, str]) -> tuple[str, datetime]:
    """A token that is good for a day, and until when."""
    with registry.client(user[1]) as client:
        made = client.post(f"{V1}/tokens", json={"name": "for a day", "scope": "admin", "expiresInDays": 1}).json()
    return made["token"], datetime.fromisoformat(made["expiresAt"])


def test_a_token_makes_none_that_outlives_it(registry: Registry, ending: tuple[str, datetime]) -> None:
    token, until = ending
    with registry.client(token) as client:
        for days in (1, 2, 3650):
            refused = client.post(f"{V1}/tokens", json={"name": "longer", "scope": "read", "expiresInDays": days})
            assert refused.status_code == 403, days
            assert f"{until:%Y-%m-%d %H:%M} UTC" in refused.json()["error"]
        made = client.post(f"{V1}/tokens", json={"name": "as long", "scope": "admin"}).json()
        assert datetime.fromisoformat(made["expiresAt"]) == until
    with registry.client(made["token"]) as client:
        grandchild = client.post(f"{V1}/tokens", json={"name": "as long", "scope": "read"}).json()
        assert datetime.fromisoformat(grandchild["expiresAt"]) == until


@contextmanager
def logged_in(registry: Registry, token: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=registry.url, headers={"Accept": "text/html", "Origin": registry.url}) as client:
        sent = {"csrf": secret_of(client.get("/login").text), "token": token, "next": "/"}
        assert client.post("/login", data=sent).status_code == 303
        yield client


def secret_of(page: str) -> str:
    return str(re.findall(r'name="csrf" value="([0-9a-f]+)"', page)[0])


def test_a_page_makes_none_that_outlives_the_session_s(registry: Registry, ending: tuple[str, datetime]) -> None:
    token, until = ending
    with logged_in(registry, token) as browser:
        page = browser.get("/tokens").text
        assert re.findall(
            r'<option value="(\d*)"[^>]*>(?:a week|30 days|90 days|a year|never|with your own)', page
        ) == [""]
        sent = {"csrf": secret_of(page), "name": "by a form", "scope": "read"}
        assert browser.post("/tokens", data={**sent, "days": "7"}).status_code == 403
        assert browser.post("/tokens", data={**sent, "days": ""}).status_code == 200
    with registry.client(token) as client:
        ends = {row["name"]: row["expiresAt"] for row in client.get(f"{V1}/tokens").json()}
    assert datetime.fromisoformat(ends["by a form"]) == until


def test_a_session_ends_with_its_token_and_is_swept(own_registry: Registry) -> None:
    with own_registry.client() as client:
        made = client.post(f"{V1}/tokens", json={"name": "for a day", "scope": "read", "expiresInDays": 1}).json()
        revoked = client.post(f"{V1}/tokens", json={"name": "revoked", "scope": "read"}).json()
    tokens = [made["token"], revoked["token"], own_registry.token, own_registry.token]
    for token in tokens:
        with logged_in(own_registry, token):
            pass
    ends = own_registry.sql(
        "select tokens.name, web_sessions.expires_at = tokens.expires_at from web_sessions "
        "join tokens on tokens.id = token_id order by web_sessions.created_at"
    )
    assert ends == [("for a day", True), ("revoked", None), ("first start", None), ("first start", None)]
    own_registry.admin_command("gc")
    assert own_registry.sql("select count(*) from web_sessions") == [(4,)]
    with own_registry.client() as client:
        client.delete(f"{V1}/tokens/{revoked['id']}").raise_for_status()
    with own_registry.database() as database:
        database.exec_driver_sql(
            "UPDATE web_sessions SET expires_at = '2020-01-01 00:00:00' WHERE sha256 = (SELECT max(sha256) FROM "
            "web_sessions WHERE token_id = 1)"
        )
    own_registry.admin_command("gc")
    assert own_registry.sql("select count(*) from web_sessions") == [(2,)]
