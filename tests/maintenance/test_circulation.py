"""What an administrator takes out of circulation is served to nobody, and what a scrub finds damaged never as good."""

from collections.abc import Callable

import httpx2
import pytest
import wire
from builders import lora_weights
from registry_process import Registry

QUARANTINE = "/api/lorahub/v1/models/{}/quarantine"


def published(client: httpx2.Client, repo: str, content: bytes, *, private: bool = False) -> str:
    wire.create_repo(client, repo, private=private)
    wire.upload(client, repo, content)
    made = wire.commit(client, repo, [wire.uploaded("w.safetensors", content), wire.version("latest")])
    assert made.status_code == 200, made.text
    return repo


def code(response: httpx2.Response) -> tuple[int, str | None]:
    return response.status_code, response.headers.get("x-error-code")


def listed(client: httpx2.Client, repo: str) -> bool:
    return repo in [row["id"] for row in client.get("/api/models", params={"search": repo}).json()]


REFUSED = (403, "Quarantined")


# --- quarantine -------------------------------------------------------------------------------------------------------


def test_nobody_but_its_members_and_admins_sees_what_is_in_quarantine(
    registry: Registry, new_user: Callable[[], tuple[str, str]]
) -> None:
    (owner, token), (_, stranger) = new_user(), new_user()
    content = lora_weights(seed=901)
    with (
        registry.client(token) as mine,
        registry.client(stranger) as theirs,
        registry.client(None) as anyone,
        registry.client() as admin,
    ):
        repo = published(mine, f"{owner}/doubtful", content)
        file = f"/{repo}/resolve/main/w.safetensors"
        before = theirs.get(f"/api/models/{repo}").json()
        assert listed(theirs, repo)
        admin.put(QUARANTINE.format(repo), json={"reason": "reported as malware"})
        for client in (theirs, anyone):
            assert not listed(client, repo)
            assert code(client.get(f"/api/models/{repo}")) == REFUSED
            assert code(client.get(file)) == REFUSED
            assert "malware" not in client.get(file).text
            assert client.get(f"/api/lorahub/v1/by-hash/{wire.sha256(content)}").json() == []
        assert admin.get(file).content == content
        assert repo in [row["id"] for row in admin.get("/api/lorahub/v1/quarantined").json()]

        assert admin.request("DELETE", QUARANTINE.format(repo)).json() == {"id": repo, "quarantine": None}
        assert theirs.get(f"/api/models/{repo}").json() == {**before, "downloads": 1, "downloadsAllTime": 1}
        assert listed(theirs, repo)
        assert theirs.get(file).content == content
        events = [row for row in admin.get("/api/lorahub/v1/audit").json() if row["subject"] == repo]
        assert [row["action"] for row in events][:2] == ["repository.release", "repository.quarantine"]


def test_the_owner_sees_why_and_can_change_nothing(registry: Registry, user: tuple[str, str]) -> None:
    owner, token = user
    content = lora_weights(seed=909)
    with registry.client(token) as mine, registry.client() as admin:
        repo = published(mine, f"{owner}/doubtful", content)
        other = wire.create_repo(mine, f"{owner}/other")
        said = admin.put(QUARANTINE.format(repo), json={"reason": "reported as malware"})
        assert said.json()["quarantine"]["reason"] == "reported as malware"
        assert listed(mine, repo)
        shown = mine.get(f"/api/models/{repo}").json()
        assert (shown["disabled"], shown["quarantine"]["reason"]) == (True, "reported as malware")
        refused = mine.get(f"/{repo}/resolve/main/w.safetensors")
        assert code(refused) == REFUSED
        assert "reported as malware" in refused.json()["error"]
        assert code(wire.commit(mine, repo, [wire.inline("a.txt", b"a")])) == REFUSED
        assert code(mine.put(f"/api/lorahub/v1/models/{repo}/aliases/best", json={"revision": "v1"})) == REFUSED
        assert code(mine.request("DELETE", "/api/repos/delete", json={"name": "doubtful"})) == REFUSED
        assert code(mine.put(f"/api/models/{repo}/settings", json={"private": True})) == REFUSED
        assert "actions" in wire.batch(mine, other, content), "its bytes are no longer to be had by their digest"


def test_a_quarantined_private_repository_is_as_missing_as_before(
    registry: Registry, new_user: Callable[[], tuple[str, str]]
) -> None:
    (owner, token), (_, stranger) = new_user(), new_user()
    with registry.client(token) as mine, registry.client(stranger) as theirs, registry.client() as admin:
        repo = published(mine, f"{owner}/hidden", lora_weights(seed=902), private=True)
        missing = theirs.get(f"/api/models/{repo}")
        admin.put(QUARANTINE.format(repo), json={"reason": "x"})
        now = theirs.get(f"/api/models/{repo}")
        assert (now.status_code, now.json()) == (missing.status_code, missing.json())


def test_a_merge_can_not_read_a_source_in_quarantine(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    with registry.client(token) as mine, registry.client() as admin:
        repo = published(mine, f"{name}/source", lora_weights(seed=903))
        admin.put(QUARANTINE.format(repo), json={"reason": "x"})
        assert code(mine.get(f"/{repo}/resolve/merged/model.safetensors")) == REFUSED


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/api/lorahub/v1/models/{repo}/quarantine", {"reason": "x"}),
        ("DELETE", "/api/lorahub/v1/models/{repo}/quarantine", None),
        ("GET", "/api/lorahub/v1/quarantined", None),
        ("GET", "/api/lorahub/v1/blocked", None),
        ("PUT", f"/api/lorahub/v1/blocked/{'0' * 64}", {"reason": "x"}),
        ("DELETE", f"/api/lorahub/v1/blocked/{'0' * 64}", None),
    ],
)
def test_only_administrators_do_this(
    registry: Registry, user: tuple[str, str], method: str, path: str, body: dict[str, str] | None
) -> None:
    name, token = user
    with registry.client(token) as mine, registry.client(None) as anyone:
        repo = wire.create_repo(mine, f"{name}/own")
        assert code(mine.request(method, path.format(repo=repo), json=body)) == (403, "NotPermitted")
        assert code(anyone.request(method, path.format(repo=repo), json=body)) == (401, "NotAuthenticated")


def test_a_reason_is_asked_for(registry: Registry) -> None:
    with registry.client() as admin:
        assert admin.put(f"/api/lorahub/v1/blocked/{'0' * 64}", json={"reason": " "}).status_code == 400
        assert admin.put("/api/lorahub/v1/blocked/zz", json={"reason": "x"}).status_code == 400


# --- blocked bytes ----------------------------------------------------------------------------------------------------


def test_blocked_bytes_can_neither_be_brought_nor_fetched(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    content, note = lora_weights(seed=904), b"a note that was blocked"
    blocked = (403, "ContentBlocked")
    with registry.client(token) as mine, registry.client() as admin:
        repo = published(mine, f"{name}/first", content)
        wire.commit(mine, repo, [wire.inline("note.txt", note), wire.inline("good.txt", b"good")])
        other = wire.create_repo(mine, f"{name}/second")
        started = wire.batch(mine, other, lora_weights(seed=905))["actions"]["upload"]["href"]
        for bytes_ in (content, note, lora_weights(seed=905)):
            digest = wire.sha256(bytes_)
            assert admin.put(f"/api/lorahub/v1/blocked/{digest}", json={"reason": "leaked"}).status_code == 200

        file = f"/{repo}/resolve/v1/w.safetensors"
        assert code(mine.get(file)) == blocked
        assert code(mine.head(file)) == blocked
        assert code(admin.get(file)) == blocked
        assert mine.get(f"/{repo}/resolve/main/good.txt").content == b"good"
        assert wire.batch(mine, other, content)["error"]["code"] == 403
        sent = httpx2.put(started, content=lora_weights(seed=905))
        assert code(sent) == blocked or sent.is_success, "a bucket takes what the registry refuses afterwards"
        for bytes_ in (content, lora_weights(seed=905)):
            assert code(wire.commit(mine, other, [wire.uploaded("w.safetensors", bytes_)])) in (
                blocked,
                (400, "BlobNotFound"),
            )
        assert code(wire.commit(mine, other, [wire.inline("note.txt", note)])) == blocked
        assert code(wire.commit(mine, repo, [wire.inline("note.txt", note)])) == blocked
        assert code(wire.commit(mine, repo, [wire.inline("more.txt", b"more")])) == blocked, "they would go on"
        gone = [{"key": "deletedFile", "value": {"path": path}} for path in ("w.safetensors", "note.txt")]
        assert wire.commit(mine, repo, [*gone, wire.inline("more.txt", b"more")]).status_code == 200

        for bytes_ in (content, note, lora_weights(seed=905)):
            assert admin.delete(f"/api/lorahub/v1/blocked/{wire.sha256(bytes_)}").status_code == 200
        assert admin.delete(f"/api/lorahub/v1/blocked/{wire.sha256(note)}").status_code == 404
        assert mine.get(file).content == content
        assert wire.commit(mine, other, [wire.inline("note.txt", note)]).status_code == 200


def test_the_operator_does_it_on_the_machine(own_registry: Registry) -> None:
    digest = wire.sha256(lora_weights(seed=906))
    with own_registry.client() as admin, own_registry.client(None) as anyone:
        repo = published(admin, "owner/here", lora_weights(seed=906))
        own_registry.admin_command("quarantine", repo, "--reason", "a report")
        assert own_registry.admin_command("quarantined") == [
            {"repository": repo, "reason": "a report", "by": "(operator)"}
        ]
        assert code(anyone.get(f"/api/models/{repo}")) == REFUSED
        own_registry.admin_command("unquarantine", repo)
        own_registry.admin_command("block-hash", digest, "--reason", "a leak")
        assert [row["sha256"] for row in own_registry.admin_command("blocked")] == [digest]
        assert code(anyone.get(f"/{repo}/resolve/main/w.safetensors")) == (403, "ContentBlocked")
        own_registry.admin_command("unblock-hash", digest)
        assert anyone.get(f"/{repo}/resolve/main/w.safetensors").status_code == 200
    own_registry.assert_sound()


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_gone", [False, True])
def test_damaged_bytes_are_not_served_and_a_push_heals_them(own_registry: Registry, is_gone: bool) -> None:  # noqa: FBT001
    content = lora_weights(seed=907)
    with own_registry.client() as client:
        repo = published(client, "owner/rotten", content)
        wire.commit(client, repo, [wire.inline("good.txt", b"good")])
        [key] = [key for key in own_registry.objects.list("blobs/") if wire.sha256(content) in key]
        if is_gone:
            own_registry.objects.delete(key)
        else:
            own_registry.objects.write(key, bytes([*content[:-1], content[-1] ^ 1]))

        report = own_registry.admin_command("scrub")
        assert (report["ok"], report["damaged"]) == (False, [wire.sha256(content)])
        file = f"/{repo}/resolve/main/w.safetensors"
        assert code(client.get(file)) == (410, "BlobDamaged")
        assert code(client.head(file)) == (410, "BlobDamaged")
        assert client.get(f"/{repo}/resolve/main/good.txt").content == b"good"
        assert client.get(f"/api/models/{repo}").status_code == 200
        assert not own_registry.admin_command("fsck")["ok"]

        wire.upload(client, repo, content)
        assert wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code == 200
        assert client.get(file).content == content
        assert own_registry.admin_command("scrub")["ok"]
        actions = [row["action"] for row in client.get("/api/lorahub/v1/audit").json()]
        assert {"blob.damaged", "blob.heal"} <= set(actions)
    own_registry.admin_command("gc", "--grace-hours", "0")
    own_registry.assert_sound()


def test_bytes_that_come_back_are_served_again(own_registry: Registry) -> None:
    content = lora_weights(seed=908)
    with own_registry.client() as client:
        repo = published(client, "owner/flaky", content)
        [key] = [key for key in own_registry.objects.list("blobs/") if wire.sha256(content) in key]
        own_registry.objects.write(key, content[:-1])
        assert not own_registry.admin_command("scrub")["ok"]
        own_registry.objects.write(key, content)
        assert own_registry.admin_command("scrub")["ok"]
        assert client.get(f"/{repo}/resolve/main/w.safetensors").content == content
    own_registry.assert_sound()
