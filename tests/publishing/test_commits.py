"""What one commit does and refuses."""

import json

import wire
from builders import lora_config, lora_weights, safetensors_bytes, weights_of_size
from registry_process import Registry


def test_a_commit_that_names_an_old_parent_is_refused_and_leaves_nothing(
    registry: Registry, user: tuple[str, str]
) -> None:
    name, token = user
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/parent")
        old = wire.head(client, repo)
        assert wire.commit(client, repo, [wire.inline("a", b"a")], parent=old).status_code == 200
        refused = wire.commit(client, repo, [wire.inline("b", b"b")], parent=old)
        assert refused.status_code == 412
        assert "The branch was updated since you opened this page" in refused.json()["error"]
        assert "b" not in wire.files(client, repo)


def test_the_same_request_twice_is_one_commit(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/twice")
        first = wire.commit(client, repo, [wire.inline("a", b"a")])
        second = wire.commit(client, repo, [wire.inline("a", b"a")])
        assert first.json()["commitOid"] == second.json()["commitOid"]
        other = wire.commit(client, repo, [wire.inline("a", b"b")])
        assert other.json()["commitOid"] != first.json()["commitOid"]
        late = wire.commit(client, repo, [wire.inline("a", b"a")])
        assert late.json()["commitOid"] not in {first.json()["commitOid"], other.json()["commitOid"]}


def test_a_commit_of_a_deleted_branch_can_be_made_again(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/again")
        made = []
        for _ in range(2):
            assert client.post(f"/api/models/{repo}/branch/b", json={}).status_code == 200
            answer = wire.commit(client, repo, [wire.inline("a", b"a")], branch="b")
            assert answer.status_code == 200, answer.text
            made.append(answer.json()["commitOid"])
            assert set(wire.files(client, repo, "b")) == {".gitattributes", "a"}
            assert client.delete(f"/api/models/{repo}/branch/b").status_code == 200
        assert made[0] != made[1]


def test_the_full_name_of_main_is_main(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    card = b"---\nbase_model: acme/full-name\ntags: [lora]\nlibrary_name: peft\n---\n"
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/fullname")
        answer = wire.commit(client, repo, [wire.inline("README.md", card)], branch="refs%2Fheads%2Fmain")
        assert answer.status_code == 200
        found = client.get("/api/models", params={"filter": "lora", "author": name}).json()
    assert [model["id"] for model in found] == [repo]


def test_a_key_finds_its_first_answer_even_after_other_commits(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/keyed")
        first = wire.commit(client, repo, [wire.inline("a", b"a"), wire.version("latest")], key="k1").json()
        wire.commit(client, repo, [wire.inline("b", b"b"), wire.version("latest")], key="k2")
        again = wire.commit(client, repo, [wire.inline("a", b"a"), wire.version("latest")], key="k1").json()
        assert (again["commitOid"], again["version"]) == (first["commitOid"], "v1")


def test_versions_count_up_and_the_same_files_are_the_same_version(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/versions")
        one = wire.commit(client, repo, [wire.inline("a", b"1"), wire.version("latest")], title="one").json()
        two = wire.commit(client, repo, [wire.inline("a", b"2"), wire.version("latest")], title="two").json()
        same = wire.commit(client, repo, [wire.inline("a", b"2"), wire.version("champion")], title="three").json()
        assert (one["version"], two["version"], same["version"]) == ("v1", "v2", "v2")
        assert (one["created"], two["created"], same["created"]) == (True, True, False)
        assert set(same["aliases"]) == {"latest", "champion"}
        named = wire.commit(client, repo, [wire.inline("a", b"3"), wire.version(name="v2")], title="four")
        assert named.status_code == 409
        ahead = wire.commit(client, repo, [wire.inline("a", b"3"), wire.version(name="v9")], title="five").json()
        assert ahead["version"] == "v9"
        behind = wire.commit(client, repo, [wire.inline("a", b"4"), wire.version(name="v5")], title="six")
        assert behind.status_code == 409
        assert [version["name"] for version in client.get(f"/api/lorahub/v1/models/{repo}/versions").json()] == [
            "v9",
            "v2",
            "v1",
        ]


def test_bytes_of_a_private_repository_cannot_be_claimed_by_their_hash(
    registry: Registry, user: tuple[str, str], new_user: object
) -> None:
    owner, owner_token = user
    thief, thief_token = new_user()  # type: ignore[operator]
    secret = lora_weights(seed=4242)
    with registry.client(owner_token) as client:
        private = wire.create_repo(client, f"{owner}/secret", private=True)
        wire.upload(client, private, secret)
        assert wire.commit(client, private, [wire.uploaded("w.safetensors", secret)]).status_code == 200
    with registry.client(thief_token) as client:
        own = wire.create_repo(client, f"{thief}/loot")
        stolen = wire.commit(client, own, [wire.uploaded("w.safetensors", secret)])
        unknown = wire.commit(client, own, [wire.uploaded("w.safetensors", lora_weights(seed=4243))])
        assert stolen.status_code == unknown.status_code == 400
        assert stolen.json()["code"] == unknown.json()["code"] == "BlobNotFound"
        assert "actions" in wire.batch(client, own, secret), "the registry told a stranger that it has these bytes"
        verify = client.post(f"/{own}.git/info/lfs/verify", json={"oid": wire.sha256(secret), "size": len(secret)})
        assert verify.status_code == 400
        assert set(wire.files(client, own)) == {".gitattributes"}
        wire.upload(client, own, secret)  # who has the bytes may bring them
        assert wire.commit(client, own, [wire.uploaded("w.safetensors", secret)]).status_code == 200


def test_a_lied_size_or_digest_is_refused(folder_registry: Registry) -> None:
    """By the registry itself; tests/uploads/test_storage_addresses.py has what a bucket's addresses refuse."""
    import httpx2

    content = lora_weights(seed=31_127)  # bytes that no other test has published
    with folder_registry.client() as client:
        repo = wire.create_repo(client, "owner/lies")
        for body, status in ((content[:-1], 422), (content + b"x", 422), (b"x" * len(content), 422)):
            href = wire.batch(client, repo, content)["actions"]["upload"]["href"]
            assert httpx2.put(href, content=body).status_code == status
            assert wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code == 400
        wire.upload(client, repo, content)
        line = wire.uploaded("w.safetensors", content)
        line["value"]["size"] += 1
        assert wire.commit(client, repo, [line]).status_code == 422
        assert wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code == 200


def test_every_faulty_file_is_named_and_none_is_published(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/faulty")
        refused = wire.commit(
            client,
            repo,
            [
                wire.inline("adapter_model.safetensors", b"not safetensors at all"),
                wire.inline("adapter_config.json", b'{"r": 8, "r": 9}'),
                wire.inline("pytorch_model.bin", b"\x80\x04."),
                wire.inline("fine.txt", b"fine"),
            ],
        )
        assert refused.status_code == 422
        paths = {finding["path"] for finding in refused.json()["facts"]["findings"]}
        assert paths == {"adapter_model.safetensors", "adapter_config.json", "pytorch_model.bin"}
        assert set(wire.files(client, repo)) == {".gitattributes"}


def test_weights_that_are_not_finite_are_refused_in_an_adapter(registry: Registry, user: tuple[str, str]) -> None:
    import numpy as np

    name, token = user
    weights = np.ones((4, 4))
    weights[1, 2] = np.nan
    broken = safetensors_bytes({"base_model.model.q_proj.lora_A.weight": weights})
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/nan")
        wire.upload(client, repo, broken)
        config = wire.inline("adapter_config.json", json.dumps(lora_config()).encode())
        refused = wire.commit(client, repo, [config, wire.uploaded("adapter_model.safetensors", broken)])
        assert refused.status_code == 422
        assert "base_model.model.q_proj.lora_A.weight" in refused.json()["error"]


def test_operations_apply_in_their_order(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/order")
        wire.commit(client, repo, [wire.inline("d/a", b"1"), wire.inline("d/b", b"2"), wire.inline("keep", b"3")])
        replaced = [{"key": "deletedFolder", "value": {"path": "d/"}}, wire.inline("d/a", b"new")]
        assert wire.commit(client, repo, replaced, title="replace").status_code == 200
        assert set(wire.files(client, repo)) == {".gitattributes", "d/a", "keep"}
        missing = wire.commit(client, repo, [{"key": "deletedFile", "value": {"path": "nothing"}}])
        assert missing.status_code == 404
        assert "A file with this name doesn't exist" in missing.json()["error"]


def test_a_range_is_served_and_one_behind_the_end_is_refused(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    content = weights_of_size(5000)
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/ranges")
        wire.upload(client, repo, content)
        wire.commit(client, repo, [wire.uploaded("w.safetensors", content)])
        address = f"/{repo}/resolve/main/w.safetensors"
        for header, expected in (
            ("bytes=0-9", content[:10]),
            ("bytes=4990-", content[4990:]),
            ("bytes=-7", content[-7:]),
            ("bytes=10-99999", content[10:]),
        ):
            part = client.get(address, headers={"Range": header})
            assert (part.status_code, part.content) == (206, expected)
            assert part.headers["content-range"].endswith("/5000")
        behind = client.get(address, headers={"Range": "bytes=5000-"})
        assert behind.status_code == 416
        assert behind.headers["content-range"] == "bytes */5000"
        whole = client.head(address)
        assert whole.headers["etag"] == f'"{wire.sha256(content)}"'
        assert whole.headers["x-repo-commit"] == wire.head(client, repo)
