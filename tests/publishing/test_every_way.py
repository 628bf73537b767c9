"""However an adapter comes, what it leaves behind is the same: version, `latest`, facts, verdict, audit.

(What a Trainer pushes is other content: tests/compat.)
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import lorahub
import pytest
import wire
from builders import write_adapter
from huggingface_hub import CommitOperationAdd, HfApi
from pages.conftest import csrf, logged_in
from publishers.issuer import Issuer, issuer
from registry_process import BIN, LORAHUB, Registry, eventually
from services.ports import free_port

pytestmark = pytest.mark.xdist_group("every-way")

V1 = "/api/lorahub/v1"


@dataclass(frozen=True)
class Scene:
    registry: Registry
    hub: Registry
    """Another one, which stands for the Hub; it has the same adapter as `owner/sql`."""
    ci: Issuer
    folder: Path

    def client(self) -> httpx2.Client:
        return self.registry.client()

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}

    def command(self, *arguments: str, **environment: str) -> Any:
        mine = {"LORAHUB_ENDPOINT": self.registry.url, "LORAHUB_TOKEN": self.registry.token}
        sent = {**os.environ, **mine, "LORAHUB_HF_ENDPOINT": self.hub.url, **environment}
        done = subprocess.run([LORAHUB, *arguments, "--json"], capture_output=True, text=True, check=True, env=sent)
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    hub = Registry(tmp_path_factory.mktemp("hub")).start()
    with issuer(tmp_path_factory.mktemp("ci") / "issuer") as ci:
        internal = [address.removeprefix("http://") for address in (hub.url, ci.url)]
        port = free_port()
        settings = {
            **ci.settings,
            "LORAHUB_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "LORAHUB_WORKER": "true",
            "LORAHUB_OUTBOUND_INTERNAL": json.dumps(internal),
        }
        here = Registry(tmp_path_factory.mktemp("here"), settings, port=port).start()
        adapter = write_adapter(tmp_path_factory.mktemp("adapter"))
        with lorahub.Hub(hub.url, token=hub.token) as there:
            there.push(adapter, "owner/sql")
            folder = there.pull("owner/sql", tmp_path_factory.mktemp("pulled")).path
        yield Scene(here, hub, ci, folder)
        here.stop()
        here.assert_sound()
    hub.stop()


# --- the ways ---------------------------------------------------------------------------------------------------------


def by_command(scene: Scene, repo: str) -> None:
    scene.command("push", str(scene.folder), repo)


def by_sdk(scene: Scene, repo: str) -> None:
    with lorahub.Hub(scene.registry.url, token=scene.registry.token) as hub:
        hub.push(scene.folder, repo)


def by_hf_command(scene: Scene, repo: str) -> None:
    said = {"HF_ENDPOINT": scene.registry.url, "HF_TOKEN": scene.registry.token, "HF_HUB_DISABLE_XET": "1"}
    command = [str(BIN / "hf"), "upload", repo, str(scene.folder)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **said})


def by_upload_folder(scene: Scene, repo: str) -> None:
    api = HfApi(scene.registry.url, token=scene.registry.token)
    api.create_repo(repo)
    api.upload_folder(folder_path=scene.folder, repo_id=repo)


def by_create_commit(scene: Scene, repo: str) -> None:
    api = HfApi(scene.registry.url, token=scene.registry.token)
    api.create_repo(repo)
    added = [CommitOperationAdd(path, content) for path, content in scene.files().items()]
    api.create_commit(repo, added, commit_message="by hand")


def by_browser(scene: Scene, repo: str) -> None:
    with logged_in(scene.registry, scene.registry.token) as browser:
        namespace, _, name = repo.partition("/")
        new = {"csrf": csrf(browser, "/tokens"), "namespace": namespace, "name": name, "visibility": "public"}
        assert browser.post("/new", data=new).status_code == 303
        sent = [("files", (path, content)) for path, content in scene.files().items()]
        answer = browser.post(f"/{repo}/upload", data={"csrf": csrf(browser, "/tokens")}, files=sent)
        assert answer.status_code == 303, answer.text


def by_bundle(scene: Scene, repo: str) -> None:
    bundle = scene.folder.parent / "sql.bundle"
    with lorahub.Hub(scene.hub.url, token=scene.hub.token) as there:
        there.push(scene.folder, repo)
    there_only = {"LORAHUB_ENDPOINT": scene.hub.url, "LORAHUB_TOKEN": scene.hub.token}
    scene.command("export", repo, "-o", str(bundle), **there_only)
    scene.command("import-bundle", str(bundle), "--unsigned")


def by_mirror(scene: Scene, repo: str) -> None:
    body = {"endpoint": scene.hub.url, "repository": "owner/sql", "target": repo}
    with scene.client() as client:
        wire.require(client.post(f"{V1}/mirrors", json=body))
        eventually(lambda: versions(client, repo) != [], seconds=60)


def by_import(scene: Scene, repo: str) -> None:
    scene.command("import", "hf:owner/sql", repo)


def by_job_of_a_ci(scene: Scene, repo: str) -> None:
    with scene.client() as client:
        wire.create_repo(client, repo)
        claims = {"repository": "acme/training", "ref": "refs/heads/main", "workflow_ref": "acme/training/*"}
        trusted = client.post(f"{V1}/models/{repo}/publishers", json={"issuer": scene.ci.url, "claims": claims})
        assert trusted.status_code == 200, trusted.text
        body = {"token": scene.ci.token(scene.registry.url), "repository": repo}
        token = wire.require(client.post(f"{V1}/oidc/token", json=body)).json()["token"]
    scene.command("push", str(scene.folder), repo, LORAHUB_TOKEN=token)


WAYS: tuple[Callable[[Scene, str], None], ...] = (
    by_command,
    by_sdk,
    by_hf_command,
    by_upload_folder,
    by_create_commit,
    by_browser,
    by_bundle,
    by_mirror,
    by_import,
    by_job_of_a_ci,
)

# --- what is left behind ----------------------------------------------------------------------------------------------


def versions(client: httpx2.Client, repo: str) -> list[tuple[str, list[str]]]:
    answer = client.get(f"{V1}/models/{repo}/versions")
    return [(row["name"], row["aliases"]) for row in answer.json()] if answer.status_code == 200 else []


def state(client: httpx2.Client, repo: str) -> dict[str, Any]:
    files = wire.files(client, repo, "latest")
    model = client.get(f"/api/models/{repo}").json()
    checked = client.get(f"{V1}/models/{repo}/check/latest").json()
    published = [
        (row["details"]["version"], row["details"]["aliases"])
        for row in client.get(f"{V1}/audit").json()
        if row["action"] == "revision.publish" and row["subject"] == repo and row["details"]["version"]
    ]
    return {
        "versions": versions(client, repo),
        "latest is main": wire.files(client, repo, "main") == files,
        "adapter": {path: files[path] for path in ("adapter_model.safetensors", "adapter_config.json", "README.md")},
        "tags": sorted(model["tags"]),
        "card": model["cardData"],
        "verdict": (checked["verdict"], checked["facts"]),
        "audit": published,
    }


@pytest.fixture(scope="module")
def expected(scene: Scene) -> dict[str, Any]:
    by_sdk(scene, f"{scene.registry.admin}/the-first")
    with scene.client() as client:
        return state(client, f"{scene.registry.admin}/the-first")


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_leaves_the_same(scene: Scene, expected: dict[str, Any], way: Callable[[Scene, str], None]) -> None:
    repo = f"{scene.registry.admin}/{way.__name__.replace('_', '-')}"
    way(scene, repo)
    with scene.client() as client:
        found = state(client, repo)
    assert found == expected
    assert expected["versions"] == [("v1", ["latest"])]


def test_the_result_of_a_merge_is_a_version_too(scene: Scene) -> None:
    import numpy as np
    from builders import safetensors_bytes

    base, merged = f"{scene.registry.admin}/tiny-llama", f"{scene.registry.admin}/merged"
    weights = {f"model.layers.{n}.self_attn.q_proj.weight": np.ones((16, 16)) for n in range(2)}
    with scene.client() as client:
        wire.create_repo(client, base)
        lines = [
            wire.inline("config.json", b'{"model_type": "llama"}'),
            wire.inline("model.safetensors", safetensors_bytes(weights)),
        ]
        assert wire.require(wire.commit(client, base, lines)).json()["version"] == "v1"
        by_sdk(scene, f"{scene.registry.admin}/to-merge")
        recipe = {"base": base, "adapters": [{"source": f"{scene.registry.admin}/to-merge", "weight": 1.0}]}
        started = client.post(f"{V1}/merges", json={"recipe": recipe, "target": merged})
        assert started.status_code == 202, started.text
        eventually(lambda: client.get(f"{V1}/merges/{started.json()['id']}").json()["status"] == "done", seconds=60)
        assert versions(client, merged) == [("v1", ["latest"])]
