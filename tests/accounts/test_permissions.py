"""Who may do what: every act on a repository, by every kind of caller."""

from dataclasses import dataclass

import pytest
import wire
from registry_process import Registry

V1 = "/api/lorahub/v1"


@dataclass
class Stage:
    """A private and a public repository of an organisation, and callers of every kind."""

    registry: Registry
    organisation: str
    public: str
    private: str
    tokens: dict[str, str | None]


@pytest.fixture(scope="module")
def stage(registry: Registry) -> Stage:
    owner_token = registry.add_user("stage-owner")
    tokens: dict[str, str | None] = {"anonymous": None, "owner": owner_token}
    with registry.client(owner_token) as client:
        assert client.post(f"{V1}/organisations", json={"name": "stage-org"}).status_code == 200
        for role in ("read", "write"):
            tokens[f"{role} member"] = registry.add_user(f"stage-{role}")
            answer = client.put(f"{V1}/organisations/stage-org/members/stage-{role}", json={"role": role})
            assert answer.status_code == 200
        for scope in ("read", "write"):
            made = client.post(f"{V1}/tokens", json={"name": f"ci {scope}", "scope": scope}).json()
            tokens[f"owner's {scope} token"] = made["token"]
        elsewhere = client.post(
            f"{V1}/tokens", json={"name": "own", "scope": "admin", "namespace": "stage-owner"}
        ).json()
        tokens["owner's token for another namespace"] = elsewhere["token"]
        revoked = client.post(f"{V1}/tokens", json={"name": "old", "scope": "admin"}).json()
        assert client.delete(f"{V1}/tokens/{revoked['id']}").status_code == 200
        tokens["revoked"] = revoked["token"]
        public = wire.create_repo(client, "stage-org/public")
        private = wire.create_repo(client, "stage-org/private", private=True)
        for repo in (public, private):
            assert wire.commit(client, repo, [wire.inline("a.txt", b"a"), wire.version("latest")]).status_code == 200
    tokens["stranger"] = registry.add_user("stage-stranger")
    return Stage(registry, "stage-org", public, private, tokens)


READS = (
    "/api/models/{repo}",
    "/api/models/{repo}/tree/main",
    "/api/models/{repo}/refs",
    "/api/models/{repo}/commits/main",
    "/api/models/{repo}/auth-check",
    "/api/models/{repo}/likers",
    "/{repo}/resolve/main/a.txt",
    f"{V1}/models/{{repo}}/revisions/v1",
    f"{V1}/models/{{repo}}/versions",
    f"{V1}/models/{{repo}}/aliases",
    f"{V1}/models/{{repo}}/ref-log",
)

WRITES: tuple[tuple[str, str, object], ...] = (
    ("POST", "/api/models/{repo}/preupload/main", {"files": []}),
    ("POST", "/api/models/{repo}/commit/main", None),
    ("GET", "/api/models/{repo}/xet-write-token/main", None),
    ("POST", "/{repo}.git/info/lfs/objects/batch", {"operation": "upload", "objects": []}),
    ("POST", "/api/models/{repo}/tag/main", {"tag": "t x"}),
    ("POST", "/api/models/{repo}/branch/main", {}),
    ("DELETE", "/api/models/{repo}/branch/none", None),
    ("DELETE", "/api/models/{repo}/tag/none", None),
    ("PUT", f"{V1}/models/{{repo}}/aliases/v1", {"revision": "v1"}),
    ("DELETE", f"{V1}/models/{{repo}}/aliases/none", None),
    ("POST", f"{V1}/models/{{repo}}/versions/v99/yank", {"reason": "x"}),
    ("GET", "/api/models/{repo}/auth-check/write", None),
    ("GET", "/api/models/{repo}/lfs-files", None),
    ("POST", "/api/models/{repo}/lfs-files/batch", {}),
)

MANAGEMENT: tuple[tuple[str, str, object], ...] = (
    ("PUT", "/api/models/{repo}/settings", {}),
    ("GET", "/api/models/{repo}/user-access-request/pending", None),
    ("POST", "/api/models/{repo}/user-access-request/grant", {"user": "nobody-here"}),
)

READERS = ("owner", "read member", "write member", "owner's read token", "owner's write token")
WRITERS = ("owner", "write member", "owner's write token")
MANAGERS = ("owner", "owner's write token")


def ask(stage: Stage, caller: str, method: str, path: str, body: object) -> int:
    with stage.registry.client(stage.tokens[caller]) as client:
        return client.request(method, path, json=body).status_code


@pytest.mark.parametrize("path", READS)
def test_private_reads_are_for_readers_and_public_ones_for_all(stage: Stage, path: str) -> None:
    for caller in stage.tokens:
        private = ask(stage, caller, "GET", path.format(repo=stage.private), None)
        public = ask(stage, caller, "GET", path.format(repo=stage.public), None)
        if caller == "revoked":
            assert (private, public) == (401, 401)
        else:
            assert private == (200 if caller in READERS else 404), f"{caller} got {private}"
            assert public == 200, f"{caller} got {public}"


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
def test_writes_are_for_writers(stage: Stage, method: str, path: str, body: object) -> None:
    for caller in stage.tokens:
        private = ask(stage, caller, method, path.format(repo=stage.private), body)
        public = ask(stage, caller, method, path.format(repo=stage.public), body)
        if caller in WRITERS:
            assert {private, public}.isdisjoint({401, 403}), f"{caller} was refused: {private}, {public}"
        elif caller in ("revoked", "anonymous"):
            assert public == 401
        else:
            assert public == 403, f"{caller} got {public}"
        if caller not in READERS and caller != "revoked":
            assert private == 404, f"{caller} got {private}"


@pytest.mark.parametrize(("method", "path", "body"), MANAGEMENT)
def test_management_is_for_admins_of_the_namespace(stage: Stage, method: str, path: str, body: object) -> None:
    for caller in stage.tokens:
        status = ask(stage, caller, method, path.format(repo=stage.public), body)
        if caller in MANAGERS:
            assert status not in (401, 403), f"{caller} was refused"
        else:
            assert status in (401, 403), f"{caller} got {status}"


def test_a_private_repository_and_a_missing_one_answer_alike(stage: Stage) -> None:
    def shape(repo: str, template: str) -> tuple[int, object, str]:
        with stage.registry.client(stage.tokens["stranger"]) as client:
            response = client.get(template.format(repo=repo))
            return response.status_code, response.text.replace(repo, "…"), response.headers.get("x-error-code", "")

    for template in READS:
        assert shape(stage.private, template) == shape("stage-org/missing", template)


def test_only_an_admin_of_an_organisation_governs_it(stage: Stage) -> None:
    for caller in ("stranger", "read member", "write member", "owner's write token", "anonymous"):
        status = ask(stage, caller, "PUT", f"{V1}/organisations/stage-org/members/stage-stranger", {"role": "admin"})
        assert status in (401, 403), f"{caller} got {status}"
    alone = ask(stage, "owner", "PUT", f"{V1}/organisations/stage-org/members/stage-owner", {"role": "read"})
    assert alone == 409, "the last admin was demoted"


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


def test_every_change_has_one_audit_row(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/audited")
        wire.commit(client, repo, [wire.inline("a", b"a"), wire.version()])
        client.put(f"{V1}/models/{repo}/aliases/champion", json={"revision": "v1"})
        client.post(f"/api/models/{repo}/tag/main", json={"tag": "t1"})
        client.post(f"{V1}/models/{repo}/versions/v1/yank", json={"reason": "bad"})
        client.put(f"/api/models/{repo}/settings", json={"visibility": "private"})
        client.request("DELETE", "/api/repos/delete", json={"name": "audited", "organization": name})
        assert client.get(f"{V1}/audit").status_code == 403
    with registry.client() as client:
        rows = client.get(f"{V1}/audit?limit=200").json()
    actions = [row["action"] for row in reversed(rows) if row["subject"] == repo]
    assert actions == [
        "repository.create",
        "revision.publish",
        "alias.create",
        "tag.create",
        "version.yank",
        "repository.settings",
        "repository.delete",
    ]


def test_confusable_and_reserved_account_names_are_refused(registry: Registry) -> None:
    with registry.client() as client:
        assert client.post(f"{V1}/organisations", json={"name": "Some-Company"}).status_code == 200
        for name in ("some-company", "some_company", "SOME.COMPANY", "api", "admin", "..", "a/b", "a\u202eb", "", "-x"):
            status = client.post(f"{V1}/organisations", json={"name": name}).status_code
            assert status in (400, 409), f"{name!r} got {status}"
