"""What tokens and accounts are, beyond the matrix of operations and callers (test_role_matrix.py)."""

import wire
from accounts.operations import Stage
from registry_process import Registry

V1 = "/api/lorahub/v1"


def test_the_last_admin_of_an_organisation_stays_one(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    with registry.client(token) as client:
        assert client.post(f"{V1}/organisations", json={"name": f"{name}-org"}).status_code == 200
        assert client.put(f"{V1}/organisations/{name}-org/members/{name}", json={"role": "read"}).status_code == 409
        assert client.delete(f"{V1}/organisations/{name}-org/members/{name}").status_code == 409


def test_a_token_makes_none_that_reaches_further(every_caller: Stage) -> None:
    with every_caller.registry.client(every_caller.tokens["token for another namespace"]) as client:
        for namespace in (None, every_caller.organisation):
            wider = client.post(f"{V1}/tokens", json={"name": "wider", "scope": "admin", "namespace": namespace})
            assert wider.status_code == 403
        assert client.post(f"{V1}/tokens", json={"name": "same", "namespace": "Stage_Owner"}).status_code == 200


def test_a_token_is_shown_once_and_stored_as_its_hash(registry: Registry, user: tuple[str, str]) -> None:
    _, token = user
    with registry.client(token) as client:
        made = client.post(f"{V1}/tokens", json={"name": "laptop", "scope": "read", "expiresInDays": 30}).json()
        listed = client.get(f"{V1}/tokens").json()
    assert made["token"].startswith("lh_")
    assert all("token" not in row for row in listed)
    stored = str(registry.sql("select * from tokens"))
    assert wire.sha256(made["token"].encode()) in stored
    assert made["token"] not in stored
    assert token not in stored


def test_an_expired_token_and_a_disabled_user_are_out(own_registry: Registry) -> None:
    token = own_registry.add_user("eva")
    with own_registry.client(token) as client:
        assert client.get("/api/whoami-v2").status_code == 200
        with own_registry.database() as database:
            database.exec_driver_sql("UPDATE tokens SET expires_at = '2020-01-01 00:00:00' WHERE account_id > 1")
        refused = client.get("/api/whoami-v2")
        assert refused.status_code == 401
        assert refused.json()["error"] == "Invalid credentials in Authorization header"
        assert "x-error-code" not in refused.headers
        with own_registry.database() as database:
            database.exec_driver_sql("UPDATE tokens SET expires_at = NULL")
        assert client.get("/api/whoami-v2").status_code == 200
        own_registry.admin_command("user", "disable", "eva")
        assert client.get("/api/whoami-v2").status_code == 401
        own_registry.admin_command("user", "disable", "eva", "--undo")
        assert client.get("/api/whoami-v2").status_code == 200


def test_confusable_and_reserved_account_names_are_refused(registry: Registry) -> None:
    with registry.client() as client:
        assert client.post(f"{V1}/organisations", json={"name": "Some-Company"}).status_code == 200
        for name in ("some-company", "some_company", "SOME.COMPANY", "api", "admin", "..", "a/b", "a\u202eb", "", "-x"):
            status = client.post(f"{V1}/organisations", json={"name": name}).status_code
            assert status in (400, 409), f"{name!r} got {status}"
