"""Versions stay, aliases move, yanked versions step back, retired names stay retired."""

import pytest
import wire
from registry_process import Registry

V1 = "/api/lorahub/v1"


@pytest.fixture
def repo(registry: Registry, user: tuple[str, str]) -> str:
    """Versions v1, v2 and v3; `latest` leads to v3."""
    name, token = user
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/versioned")
        for number in (b"1", b"2", b"3"):
            wire.commit(client, repo, [wire.inline("a", number), wire.version("latest")], title=number.decode())
    return repo


def resolve(registry: Registry, token: str, repo: str, revision: str) -> tuple[int, bytes]:
    with registry.client(token) as client:
        response = client.get(f"/{repo}/resolve/{revision}/a")
        return response.status_code, response.content


def test_every_name_of_a_revision_leads_to_it(registry: Registry, user: tuple[str, str], repo: str) -> None:
    _, token = user
    with registry.client(token) as client:
        found = client.get(f"{V1}/models/{repo}/revisions/v2").json()
    for revision in ("v2", found["commit"], found["commit"][:12], "refs%2Ftags%2Fv2"):
        assert resolve(registry, token, repo, revision) == (200, b"2")
    with registry.client(token) as client:
        by_digest = client.get(f"{V1}/models/{repo}/revisions/{found['digest']}").json()
    assert by_digest["commit"] == found["commit"]


def test_an_alias_moves_and_a_protected_one_only_for_owners(
    registry: Registry, user: tuple[str, str], repo: str
) -> None:
    _, token = user
    with registry.client(token) as client:
        made = client.put(f"{V1}/models/{repo}/aliases/champion", json={"revision": "v1", "protected": True})
        assert made.json() | {"updatedAt": ""} == {
            "name": "champion",
            "version": "v1",
            "commit": made.json()["commit"],
            "protected": True,
            "updatedAt": "",
        }
        assert client.put(f"{V1}/models/{repo}/aliases/champion", json={"revision": "v2"}).status_code == 200
        log = client.get(f"{V1}/models/{repo}/ref-log").json()
        assert [move["kind"] for move in log if move["name"] == "champion"] == ["alias", "alias"]
        for name_ in ("v7", "main", "0123456789abcdef", "a b", "refs/heads/x"):
            answer = client.put(f"{V1}/models/{repo}/aliases/{name_.replace('/', '%2F')}", json={"revision": "v1"})
            assert answer.status_code == 400, name_
    assert resolve(registry, token, repo, "champion") == (200, b"2")


def test_a_protected_alias_stays_for_a_writer(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    writer = registry.add_user(f"{name}-writer")
    with registry.client(token) as client:
        client.post(f"{V1}/organisations", json={"name": f"{name}-org"})
        client.put(f"{V1}/organisations/{name}-org/members/{name}-writer", json={"role": "write"})
        repo = wire.create_repo(client, f"{name}-org/guarded")
        for number in (b"1", b"2"):
            wire.commit(client, repo, [wire.inline("a", number), wire.version()], title=number.decode())
        client.put(f"{V1}/models/{repo}/aliases/prod", json={"revision": "v1", "protected": True})
    with registry.client(writer) as client:
        refused = client.put(f"{V1}/models/{repo}/aliases/prod", json={"revision": "v2"})
        assert (refused.status_code, refused.json()["code"]) == (409, "ProtectedReference")
        pushed = wire.commit(client, repo, [wire.inline("a", b"3"), wire.version("prod")], title="3")
        assert pushed.status_code == 409
        assert len(client.get(f"{V1}/models/{repo}/versions").json()) == 2, "the refused push left a version"
        assert client.delete(f"{V1}/models/{repo}/aliases/prod").status_code == 403


def test_a_yanked_version_is_served_by_its_name_only_and_says_so(
    registry: Registry, user: tuple[str, str], repo: str
) -> None:
    _, token = user
    with registry.client(token) as client:
        client.put(f"{V1}/models/{repo}/aliases/champion", json={"revision": "v3"})
        yanked = client.post(f"{V1}/models/{repo}/versions/v3/yank", json={"reason": "overfit"}).json()
        assert yanked["yanked"]["reason"] == "overfit"
        exact = client.get(f"/{repo}/resolve/v3/a")
        assert exact.content == b"3"
        assert exact.headers["x-hf-warning"] == "yanked; v3 was yanked: overfit"
        by_alias = client.get(f"/{repo}/resolve/champion/a")
        assert (by_alias.status_code, by_alias.json()["code"]) == (409, "VersionYanked")
        assert client.put(f"{V1}/models/{repo}/aliases/x", json={"revision": "v3"}).status_code == 409
    assert resolve(registry, token, repo, "latest") == (200, b"2")
    with registry.client(token) as client:
        client.delete(f"{V1}/models/{repo}/versions/v3/yank")
    assert resolve(registry, token, repo, "champion") == (200, b"3")


def test_a_version_can_not_be_deleted_and_a_name_that_looks_like_a_commit_not_made(
    registry: Registry, user: tuple[str, str], repo: str
) -> None:
    _, token = user
    with registry.client(token) as client:
        assert client.delete(f"/api/models/{repo}/tag/v2").status_code == 409
        for tag in ("deadbeef", "0" * 40, "has space", "refs/tags/x"):
            assert client.post(f"/api/models/{repo}/tag/main", json={"tag": tag}).status_code == 400, tag
        assert client.post(f"/api/models/{repo}/branch/{'a' * 40}", json={}).status_code == 400
        assert client.delete(f"/api/models/{repo}/branch/main").status_code == 403


def test_a_deleted_name_is_never_given_out_again_and_a_moved_one_leads_on(
    registry: Registry, user: tuple[str, str], repo: str
) -> None:
    name, token = user
    with registry.client(token) as client:
        moved = client.post("/api/repos/move", json={"fromRepo": repo, "toRepo": f"{name}/new-home"})
        assert moved.status_code == 200
        led = client.get(f"/{repo}/resolve/main/a?download=1", follow_redirects=False)
        assert (led.status_code, led.headers["location"]) == (307, f"/{name}/new-home/resolve/main/a?download=1")
        assert client.post("/api/repos/create", json={"name": "versioned"}).status_code == 410
        client.request("DELETE", "/api/repos/delete", json={"name": "new-home"})
        for taken in ("new-home", "New_Home", "versioned"):
            answer = client.post("/api/repos/create", json={"name": taken})
            assert (answer.status_code, answer.json()["code"]) == (410, "NameRetired"), taken
        assert client.get(f"/{repo}/resolve/main/a").status_code == 404


def test_gated_files_are_for_the_accepted(registry: Registry, user: tuple[str, str], repo: str) -> None:
    name, token = user
    guest = registry.add_user(f"{name}-guest")
    with registry.client(token) as client, registry.client(guest) as stranger:
        client.put(f"/api/models/{repo}/settings", json={"gated": "manual"})
        refused = stranger.get(f"/{repo}/resolve/main/a")
        assert (refused.status_code, refused.headers["x-error-code"]) == (403, "GatedRepo")
        assert f"Access to model {repo} is restricted" in refused.json()["error"]
        assert stranger.get(f"/api/models/{repo}").status_code == 200, "a gated repository is visible"
        assert stranger.post(f"/api/models/{repo}/ask-access").json() == {"status": "pending"}
        pending = client.get(f"/api/models/{repo}/user-access-request/pending").json()
        assert [row["user"]["user"] for row in pending] == [f"{name}-guest"]
        decision = {"user": f"{name}-guest", "status": "accepted"}
        assert client.post(f"/api/models/{repo}/user-access-request/handle", json=decision).status_code == 200
        assert stranger.get(f"/{repo}/resolve/main/a").status_code == 200
