"""One rule for every way of publishing: what is whole on `main` is the next version, and `latest` follows it."""

import json
from collections.abc import Callable, Iterator

import httpx2
import pytest
import wire
from builders import lora_config, lora_weights, safetensors_bytes
from registry_process import Registry

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def client(registry: Registry, user: tuple[str, str]) -> Iterator[httpx2.Client]:
    with registry.client(user[1]) as opened:
        yield opened


@pytest.fixture
def repo(client: httpx2.Client, user: tuple[str, str]) -> str:
    return wire.create_repo(client, f"{user[0]}/sql")


def config() -> dict[str, object]:
    return wire.inline(CONFIG, json.dumps(lora_config()).encode())


def weights(seed: int = 0) -> dict[str, object]:
    return wire.inline(WEIGHTS, lora_weights(seed=seed))


def publish(client: httpx2.Client, repo: str, *lines: dict[str, object], **options: str) -> dict[str, object]:
    answer: dict[str, object] = wire.require(wire.commit(client, repo, lines, **options)).json()  # type: ignore[arg-type]
    return answer


def versions(client: httpx2.Client, repo: str) -> list[tuple[str, list[str]]]:
    rows = client.get(f"/api/lorahub/v1/models/{repo}/versions").json()
    return [(row["name"], row["aliases"]) for row in rows]


def test_a_commit_of_a_whole_adapter_is_a_version(client: httpx2.Client, repo: str) -> None:
    answer = publish(client, repo, config(), weights())
    assert (answer["version"], answer["aliases"]) == ("v1", ["latest"])
    publish(client, repo, weights(seed=1))
    publish(client, repo, wire.inline("README.md", b"# mended\n"))
    assert versions(client, repo) == [("v3", ["latest"]), ("v2", []), ("v1", [])]


def test_what_comes_in_several_commits_is_one_when_it_is_whole(client: httpx2.Client, repo: str) -> None:
    assert "version" not in publish(client, repo, config())
    assert publish(client, repo, weights())["version"] == "v1"


def test_a_model_is_whole_with_its_last_shard(client: httpx2.Client, repo: str) -> None:
    import numpy as np

    for number in (1, 2, 3):
        content = safetensors_bytes({f"w{number}": np.ones((2, 2))})
        answer = publish(client, repo, wire.inline(f"model-{number:05}-of-00003.safetensors", content))
        assert answer.get("version") == ("v1" if number == 3 else None)


def test_a_card_alone_is_none(client: httpx2.Client, repo: str) -> None:
    assert "version" not in publish(client, repo, wire.inline("README.md", b"# soon\n"))
    assert versions(client, repo) == []


def test_the_same_files_again_are_the_same_version(client: httpx2.Client, repo: str) -> None:
    publish(client, repo, config(), weights())
    again = publish(client, repo, weights(), title="again")
    assert "version" not in again
    assert versions(client, repo) == [("v1", ["latest"])]


def test_another_branch_makes_none(client: httpx2.Client, repo: str) -> None:
    assert client.post(f"/api/models/{repo}/branch/tried", json={}).status_code == 200
    publish(client, repo, config(), weights(), branch="tried")
    assert versions(client, repo) == []


def test_a_protected_latest_stays_for_who_may_not_move_it(
    registry: Registry, client: httpx2.Client, user: tuple[str, str], new_user: Callable[[], tuple[str, str]]
) -> None:
    organisation, (writer, token) = f"{user[0]}-org", new_user()
    assert client.post("/api/lorahub/v1/organisations", json={"name": organisation}).status_code == 200
    client.put(f"/api/lorahub/v1/organisations/{organisation}/members/{writer}", json={"role": "write"})
    repo = wire.create_repo(client, f"{organisation}/sql")
    publish(client, repo, config(), weights())
    alias = {"revision": "v1", "protected": True}
    assert client.put(f"/api/lorahub/v1/models/{repo}/aliases/latest", json=alias).status_code == 200
    with registry.client(token) as other:
        assert publish(other, repo, weights(seed=1))["version"] == "v2"
    assert versions(client, repo) == [("v2", []), ("v1", ["latest"])]
    publish(client, repo, weights(seed=2))
    assert versions(client, repo)[0] == ("v3", ["latest"])


def test_a_key_with_other_content_is_no_repetition(client: httpx2.Client, repo: str) -> None:
    first = publish(client, repo, weights(), key="once")
    assert publish(client, repo, weights(), key="once")["commitOid"] == first["commitOid"]
    refused = wire.commit(client, repo, [weights(seed=1)], key="once")
    assert (refused.status_code, refused.headers["X-Error-Code"]) == (422, "IdempotencyKeyReused")
    assert wire.head(client, repo) == first["commitOid"]
