"""Quotas: never passed, whoever comes at once; given back when something goes; always the sum of what is there."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import wire
from builders import weights_of_size, write_adapter
from registry_process import IN_A_FOLDER, LORAHUB, Registry, eventually

PIECE = 40_000
NewUser = Callable[[], tuple[str, str]]


def use(client: httpx2.Client, namespace: str) -> dict[str, Any]:
    """Of a namespace that the client may write to."""
    found = client.get("/api/lorahub/v1/whoami").json()["quotas"]
    return dict(next(quota for quota in found if quota["namespace"] == namespace))


def used(client: httpx2.Client, namespace: str) -> int:
    return int(use(client, namespace)["bytes"]["used"])


def allow(registry: Registry, namespace: str, quota: int | str) -> None:
    registry.admin_command("quota", namespace, "--bytes", str(quota))


def ask_for_room(client: httpx2.Client, repo: str, number: int, size: int = PIECE) -> dict[str, Any]:
    """The LFS batch's answer for an object that nobody has."""
    return wire.batch(client, repo, b"", oid=f"{number:064x}", size=size)


def test_a_hundred_uploads_at_once_get_exactly_what_the_quota_has(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/crowded")
        allow(registry, name, used(client, name) + 50 * PIECE)
        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(lambda number: ask_for_room(client, repo, number), range(100)))
        figures = use(client, name)["bytes"]
    found = Counter("error" in answer for answer in answers)
    assert found == {False: 50, True: 50}
    assert {answer["error"]["code"] for answer in answers if "error" in answer} == {413}
    assert figures["used"] == figures["limit"]
    assert figures["reserved"] == 50 * PIECE


def test_what_is_refused_is_said_in_numbers(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/told")
        before = used(client, name)
        allow(registry, name, before + 100)
        refused = ask_for_room(client, repo, 1)["error"]["message"]
        assert refused.startswith(f"{name} may have {before + 100} bytes and has {before}: {PIECE} more are over")
        answer = wire.commit(client, repo, [wire.inline("a.txt", b"x" * 101)])
        assert (answer.status_code, answer.headers["X-Error-Code"]) == (413, "QuotaExceeded")
        assert answer.json()["facts"] == {"what": "bytes", "limit": before + 100, "used": before, "asked": 101}
        assert wire.commit(client, repo, [wire.inline("a.txt", b"x" * 100)]).status_code == 200
        assert used(client, name) == before + 100


def test_wrong_bytes_and_the_end_of_time_give_the_room_back(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "brief", {"LORAHUB_UPLOAD_LIFETIME": "PT8S", **IN_A_FOLDER}).start()
    try:
        with registry.client() as client:
            repo = wire.create_repo(client, "owner/undone")
            before = used(client, "owner")
            allow(registry, "owner", before + PIECE)
            target = wire.batch(client, repo, b"y" * PIECE)["actions"]["upload"]["href"]
            assert "error" in ask_for_room(client, repo, 1)
            assert httpx2.put(target, content=b"z" * PIECE).status_code == 422
            assert used(client, "owner") == before
            assert "error" not in ask_for_room(client, repo, 2)
            wait_until_expired(client)
            assert used(client, "owner") == before
            assert "error" not in ask_for_room(client, repo, 3), "without any collector having run"
    finally:
        registry.kill()


def wait_until_expired(client: httpx2.Client) -> None:
    eventually(lambda: use(client, "owner")["bytes"]["reserved"] == 0, seconds=60)


def test_bytes_count_once_in_a_namespace_and_in_each_namespace(registry: Registry, new_user: NewUser) -> None:
    (first, first_token), (second, second_token) = new_user(), new_user()
    content = weights_of_size(PIECE, seed=11)
    lines = [wire.uploaded("w.safetensors", content)]
    with registry.client(first_token) as client:
        repos = [wire.create_repo(client, f"{first}/shared{number}") for number in range(2)]
        empty = used(client, first)
        for repo in repos:
            wire.upload(client, repo, content)
            assert used(client, first) == empty + PIECE, "as an upload"
            assert wire.commit(client, repo, lines).status_code == 200
            assert use(client, first)["bytes"]["used"] == empty + PIECE, "as a commit"
            assert use(client, first)["bytes"]["reserved"] == 0
    with registry.client(second_token) as client:
        other = wire.create_repo(client, f"{second}/copy")
        allow(registry, second, used(client, second) + PIECE - 1)
        assert "error" in wire.batch(client, other, content), "bytes that are here already take room too"
        refused = wire.commit(client, other, lines)
        assert (refused.status_code, refused.headers["X-Error-Code"]) == (413, "QuotaExceeded"), "nor past the upload"
        allow(registry, second, "default")
        assert wire.commit(client, other, lines).status_code == 200, "readable bytes need no upload"
        assert used(client, second) == empty + PIECE


def test_a_commit_elsewhere_leaves_the_room_of_the_same_bytes_at_home(
    registry: Registry, user: tuple[str, str]
) -> None:
    name, token = user
    organisation, content = f"org-{name}", weights_of_size(PIECE, seed=4)
    with registry.client(token) as client:
        client.post("/api/lorahub/v1/organisations", json={"name": organisation}).raise_for_status()
        home, elsewhere = (wire.create_repo(client, f"{namespace}/same") for namespace in (name, organisation))
        for repo in (home, elsewhere):
            wire.upload(client, repo, content)
        wire.require(wire.commit(client, elsewhere, [wire.uploaded("w.safetensors", content), wire.inline("a", b"a")]))
        assert use(client, name)["bytes"]["reserved"] == len(content), "they wait for their commit at home"
        assert use(client, organisation)["bytes"]["reserved"] == 0
    registry.assert_sound()


def test_deleting_and_moving_repositories_moves_their_bytes(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    organisation = f"org-{name}"
    shared, own = weights_of_size(PIECE, seed=21), weights_of_size(PIECE + 7, seed=22)
    with registry.client(token) as client:
        client.post("/api/lorahub/v1/organisations", json={"name": organisation}).raise_for_status()
        repos = [wire.create_repo(client, f"{name}/{which}") for which in ("kept", "moved")]
        empty = used(client, name)
        for repo, contents in zip(repos, ([shared], [shared, own]), strict=True):
            for content in contents:
                wire.upload(client, repo, content)
            lines = [wire.uploaded(f"{index}.safetensors", content) for index, content in enumerate(contents)]
            assert wire.commit(client, repo, lines).status_code == 200
        assert used(client, name) == empty + len(shared) + len(own)
        allow(registry, organisation, 10)
        move = {"fromRepo": repos[1], "toRepo": f"{organisation}/moved"}
        refused = client.post("/api/repos/move", json=move)
        assert refused.json()["code"] == "QuotaExceeded"
        allow(registry, organisation, "none")
        assert client.post("/api/repos/move", json=move).status_code == 200
        assert used(client, name) == empty + len(shared)
        assert used(client, organisation) == empty + len(shared) + len(own)
        gone = client.request("DELETE", "/api/repos/delete", json={"name": "moved", "organization": organisation})
        assert gone.status_code == 200
        assert used(client, organisation) == 0


def test_repositories_are_counted(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    registry.admin_command("quota", name, "--repositories", "3")
    with registry.client(token) as client, ThreadPoolExecutor(8) as threads:
        bodies = [{"name": f"many{number}", "organization": name} for number in range(8)]
        answers = list(threads.map(lambda body: client.post("/api/repos/create", json=body), bodies))
        assert Counter(answer.status_code for answer in answers) == {200: 3, 413: 5}
        client.request("DELETE", "/api/repos/delete", json={"name": answers_ok(answers), "organization": name})
        assert client.post("/api/repos/create", json={"name": "one-more", "organization": name}).status_code == 200
        assert client.get("/api/lorahub/v1/whoami").json()["quotas"][0]["repositories"] == {"used": 3, "limit": 3}


def answers_ok(answers: list[httpx2.Response]) -> str:
    """The name of a repository that was made."""
    return str(next(answer.json()["name"] for answer in answers if answer.status_code == 200).partition("/")[2])


def test_open_uploads_of_an_account_are_counted(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "few", {"LORAHUB_QUOTA_OPEN_UPLOADS": "5"}).start()
    try:
        with registry.client() as client, ThreadPoolExecutor(8) as threads:
            repos = [wire.create_repo(client, f"owner/open{number}") for number in range(2)]
            answers = list(threads.map(lambda number: ask_for_room(client, repos[number % 2], number), range(12)))
            assert Counter("error" in answer for answer in answers) == {False: 5, True: 7}
            assert "5 open uploads" in next(answer["error"]["message"] for answer in answers if "error" in answer)
            assert client.get("/api/lorahub/v1/whoami").json()["openUploads"] == {"used": 5, "limit": 5}
        registry.assert_sound()
    finally:
        registry.kill()


def test_pushes_and_deletions_at_once_keep_the_sum(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    contents = [weights_of_size(PIECE + number, seed=number) for number in range(4)]

    def live(number: int) -> None:
        """A repository that shares all of its bytes with others, and half of the time goes again."""
        with registry.client(token) as client:
            repo = wire.create_repo(client, f"{name}/busy{number}")
            lines = []
            for index in (number % 4, (number + 1) % 4):
                wire.upload(client, repo, contents[index])
                lines.append(wire.uploaded(f"{index}.safetensors", contents[index]))
            assert wire.commit(client, repo, lines).status_code == 200
            if number % 2:
                gone = client.request("DELETE", "/api/repos/delete", json={"name": f"busy{number}"})
                assert gone.status_code == 200, gone.text

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(live, range(18)))
    registry.assert_sound()
    with registry.client(token) as client:
        figures = use(client, name)["bytes"]
    kept = {index for number in range(0, 18, 2) for index in (number % 4, (number + 1) % 4)}
    assert figures["used"] - sum(len(contents[index]) for index in kept) in range(1, 2000), "and one .gitattributes"


# --- what people see --------------------------------------------------------------------------------------------------


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def test_clients_show_the_numbers(registry: Registry, user: tuple[str, str], tmp_path: Path) -> None:
    name, token = user
    with registry.client(token) as client:
        wire.create_repo(client, f"{name}/full")
        quota = used(client, name) + 1000
    allow(registry, name, quota)
    folder = write_adapter(tmp_path / "adapter")
    (folder / "more.safetensors").write_bytes(weights_of_size(2 << 20))
    said = f"{name} may have {quota} bytes"
    pushed = run([LORAHUB, "push", str(folder), f"{name}/full"], LORAHUB_ENDPOINT=registry.url, LORAHUB_TOKEN=token)
    assert pushed.returncode == 2
    assert said in pushed.stderr
    code = f"from huggingface_hub import HfApi; HfApi().upload_folder(repo_id='{name}/full', folder_path='{folder}')"
    environment = {"HF_ENDPOINT": registry.url, "HF_TOKEN": token, "HF_HOME": str(tmp_path / "hf")}
    stock = run([sys.executable, "-c", code], **environment)
    assert stock.returncode != 0
    assert said in stock.stderr


# --- proof ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE accounts SET stored_bytes = stored_bytes + 1", "bytes recorded"),
        ("DELETE FROM namespace_blobs", "is not counted"),
        ("INSERT INTO namespace_blobs SELECT 2, sha256 FROM blobs", "no commit has it"),
    ],
)
def test_a_miscount_is_found_and_mended(own_registry: Registry, damage: str, says: str) -> None:
    own_registry.add_user("idle")
    with own_registry.client() as client:
        repo = wire.create_repo(client, "owner/counted")
        assert wire.commit(client, repo, [wire.inline("a.txt", b"a")]).status_code == 200
    own_registry.assert_sound()
    with own_registry.database() as database:
        database.exec_driver_sql(damage)
    report = own_registry.admin_command("fsck")
    assert any(says in problem for problem in report["problems"]), report
    own_registry.admin_command("recount-quotas")
    own_registry.assert_sound()
