"""A repository that keeps its newest versions: what is older is gone for good, and everything else is as it was."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import builders
import httpx2
import lorahub
import pytest
import wire
from registry_process import LORAHUB, Registry, serve

pytestmark = pytest.mark.xdist_group("retention")

V1 = "/api/lorahub/v1"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    running = serve(tmp_path_factory.mktemp("here"), {"LORAHUB_BLOB_GRACE": "PT0S"})
    yield running
    running.stop()
    running.assert_sound()


def content(repo: str, number: int) -> bytes:
    return f"{repo} {number}\n".encode() * 1000


def publish(client: httpx2.Client, repo: str, number: int, *, version: bool = True) -> str:
    lines = [wire.inline("notes.txt", content(repo, number)), *([wire.version("latest")] if version else [])]
    return str(wire.require(wire.commit(client, repo, lines)).json()["commitOid"])


def versions(client: httpx2.Client, repo: str) -> list[str]:
    return [one["name"] for one in client.get(f"{V1}/models/{repo}/versions").json()]


def keep(client: httpx2.Client, repo: str, number: int | None) -> dict[str, Any]:
    return dict(wire.require(client.put(f"{V1}/models/{repo}/retention", json={"keep": number})).json())


def collect(here: Registry) -> dict[str, Any]:
    return dict(here.admin_command("gc", "--grace-hours", "0"))


def test_the_newest_versions_and_what_has_a_name_are_kept(here: Registry) -> None:
    with here.client() as client:
        repo = wire.create_repo(client, "owner/kept")
        commits = [publish(client, repo, number) for number in range(6)]
        between = publish(client, repo, 90, version=False)
        commits += [publish(client, repo, number) for number in (6, 7)]
        wire.require(client.put(f"{V1}/models/{repo}/aliases/champion", json={"revision": "v2", "protected": True}))
        wire.require(client.post(f"/api/models/{repo}/branch/old", json={"startingPoint": "v3"}))
        wire.require(client.post(f"/api/models/{repo}/tag/v4", json={"tag": "release"}))
        assert versions(client, repo) == [f"v{number}" for number in range(8, 0, -1)], "everything, at first"
        assert collect(here)["versions"] == 0
        said = keep(client, repo, 2)
        assert said == {"keep": 2, "drops": ["v1", "v5", "v6"]}
        assert here.admin_command("gc", "--grace-hours", "0", "--dry-run")["versions"] == 3
        assert len(versions(client, repo)) == 8, "so far it was only said"

        report = collect(here)
        assert report["versions"] == 3
        assert versions(client, repo) == ["v8", "v7", "v4", "v3", "v2"]
        for name, number in {"v8": 7, "v7": 6, "v4": 3, "release": 3, "old": 2, "champion": 1, "latest": 7}.items():
            assert client.get(f"/{repo}/resolve/{name}/notes.txt").content == content(repo, number), name
        for gone in ("v1", "v5", "v6", commits[0], commits[4][:12], between):
            answer = client.get(f"/{repo}/resolve/{gone}/notes.txt")
            assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "RevisionNotFound"), gone
            assert client.get(f"/api/models/{repo}/revision/{gone}").status_code == 404
        kept = {wire.sha256(content(repo, number)) for number in (1, 2, 3, 6, 7)}
        stored = {key.rpartition("/")[2].partition("-")[0] for key in here.objects.list("blobs/")}
        assert kept <= stored
        assert not {wire.sha256(content(repo, number)) for number in (0, 4, 5, 90)} & stored, "the bytes went too"
        assert_it_is_over(here, client, repo, kept=commits[:5:-1])


def assert_it_is_over(here: Registry, client: httpx2.Client, repo: str, *, kept: list[str]) -> None:
    [row] = [row for row in client.get(f"{V1}/audit").json() if row["action"] == "retention.drop"]
    assert (row["subject"], row["details"]["versions"]) == (repo, ["v1", "v5", "v6"])
    assert [commit["id"] for commit in client.get(f"/api/models/{repo}/commits/main").json()] == kept
    assert collect(here)["versions"] == 0, "once"
    assert here.admin_command("fsck", "--deep")["ok"]

    assert publish(client, repo, 8)
    assert versions(client, repo)[0] == "v9", "no number is given again"
    refused = wire.commit(client, repo, [wire.inline("x", b"x"), wire.version(name="v1")])
    assert refused.status_code == 409
    assert client.get(f"{V1}/models/{repo}/record").status_code == 501, "its ids can't be proved any more"


def test_names_that_are_given_while_it_is_collected_lead_to_files(here: Registry) -> None:
    with here.client() as client:
        repo = wire.create_repo(client, "owner/raced")
        for number in range(12):
            publish(client, repo, number)
        keep(client, repo, 1)
        given: list[int] = []

        def name_them() -> None:
            with here.client() as other:
                for number in range(1, 12):
                    body = {"revision": f"v{number}"}
                    answer = other.put(f"{V1}/models/{repo}/aliases/is-{number}", json=body)
                    assert answer.status_code in (200, 404), answer.text
                    if answer.status_code == 200:
                        given.append(number)

        naming = threading.Thread(target=name_them)
        naming.start()
        collect(here)
        naming.join()
        for number in given:
            answer = client.get(f"/{repo}/resolve/is-{number}/notes.txt")
            assert answer.content == content(repo, number - 1), answer.text


def test_the_commands_show_and_set_it(here: Registry, tmp_path: Path) -> None:
    def lorahub(*arguments: str) -> Any:
        environment = {"LORAHUB_ENDPOINT": here.url, "LORAHUB_TOKEN": here.token, "LORAHUB_HOME": str(tmp_path)}
        command = [LORAHUB, "retention", *arguments, "--json"]
        result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
        return json.loads(result.stdout)

    with here.client() as client:
        repo = wire.create_repo(client, "owner/shown")
        for number in range(3):
            publish(client, repo, number)
    assert lorahub("show", repo)["result"] == {"repository": repo, "keep": None, "drops": []}
    assert lorahub("set", repo, "--keep", "1")["result"]["drops"] == ["v1", "v2"]
    assert lorahub("set", repo)["error"]["code"] == "Usage"
    assert lorahub("set", repo, "--all")["result"] == {"repository": repo, "keep": None, "drops": []}
    with here.client() as client:
        assert client.put(f"{V1}/models/{repo}/retention", json={"keep": 0}).status_code == 400
        assert len(versions(client, repo)) == 3


def test_what_a_comparison_is_about_to_read_stays(here: Registry, tmp_path: Path) -> None:
    with lorahub.Hub(here.url, token=here.token) as hub, here.client() as client:
        for seed in range(4):
            hub.push(builders.write_adapter(tmp_path / "adapter", seed=seed), "owner/compared")
        commits = {one["name"]: one["commit"] for one in client.get(f"{V1}/models/owner/compared/versions").json()}
        asked = client.post(f"{V1}/models/owner/compared/overlap/v1", params={"with": "owner/compared@v2"})
        assert asked.status_code == 202, asked.text
        with here.database() as database:
            database.exec_driver_sql("UPDATE adapter_statistics SET status = 'done'")
        keep(client, "owner/compared", 1)
        collect(here)
    with here.database() as database:
        have_files = set(database.exec_driver_sql("SELECT commit_id FROM commit_files").scalars())
    assert [version for version in ("v1", "v2", "v3", "v4") if commits[version] in have_files] == ["v1", "v2", "v4"]
