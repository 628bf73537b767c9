"""Stored bytes that are gone, cut off, or on a disk that isn't mounted: said so, and never taken for an answer."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import wire
from builders import lora_config, lora_weights, safetensors_bytes
from in_process import OWNER, App, running
from lorahub.errors import Unavailable
from lorahub_registry.operations.maintenance import service as maintenance
from registry_process import LORAHUB
from starlette.testclient import TestClient

BASE, ADAPTER = f"{OWNER}/base", f"{OWNER}/sql"
README = b"# small\n"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    import numpy as np

    weights = {f"model.layers.{layer}.self_attn.q_proj.weight": np.ones((16, 16)) for layer in range(2)}
    with running(tmp_path / "registry") as started:
        wire.create_repo(started.client, BASE)
        files = {"config.json": b'{"model_type": "llama"}', "model.safetensors": safetensors_bytes(weights)}
        commit(started, BASE, files)
        wire.create_repo(started.client, ADAPTER)
        commit(started, ADAPTER, {"README.md": README})
        yield started


def commit(app: App, repo: str, files: dict[str, bytes]) -> None:
    wire.require(wire.commit(app.client, repo, [wire.inline(path, content) for path, content in files.items()]))


def object_of(app: App, repo: str, path: str) -> Path:
    digest = wire.files(app.client, repo)[path]
    [found] = (app.backend.settings.registry_home / "storage").glob(f"blobs/*/*/{digest}-*")
    return found


def push_adapter(client: TestClient, *, width: int) -> int:
    files = {
        "adapter_config.json": json.dumps(lora_config(base=BASE)).encode(),
        "adapter_model.safetensors": lora_weights(width=width),
    }
    lines = [wire.inline(path, content) for path, content in files.items()]
    return wire.commit(client, ADAPTER, lines).status_code


def test_a_small_file_whose_bytes_are_lost_is_gone_by_name(app: App) -> None:
    object_of(app, ADAPTER, "README.md").unlink()
    for address in (f"/{ADAPTER}/resolve/main/README.md", f"/{ADAPTER}/blob/main/README.md"):
        answer = app.client.get(address)
        assert answer.status_code == 410
        assert answer.headers["X-Error-Code"] == "BlobDamaged"
        assert "README.md" in answer.headers["X-Error-Message"]


def test_bringing_lost_bytes_again_serves_them_again(app: App) -> None:
    object_of(app, ADAPTER, "README.md").unlink()
    assert maintenance.scrub(app.backend).damaged
    commit(app, ADAPTER, {"COPY.md": README})
    assert app.client.get(f"/{ADAPTER}/resolve/main/README.md").content == README


@pytest.mark.parametrize("harm", ["lost", "cut off"])
def test_an_adapter_is_not_judged_by_a_base_whose_bytes_are_lost(app: App, harm: str) -> None:
    path = object_of(app, BASE, "model.safetensors")
    path.unlink() if harm == "lost" else path.write_bytes(path.read_bytes()[:100])
    assert push_adapter(app.client, width=24) == 410
    assert set(wire.files(app.client, ADAPTER)) == {".gitattributes", "README.md"}


def test_a_folder_that_is_not_mounted_is_away_and_nothing_in_it_is_lost(app: App) -> None:
    root = app.backend.settings.registry_home / "storage"
    mounted = root.with_name("elsewhere")
    root.rename(mounted)
    root.mkdir()
    assert app.client.get(f"/{ADAPTER}/resolve/main/README.md").status_code == 503
    assert push_adapter(app.client, width=16) == 503
    with pytest.raises(Unavailable):
        maintenance.scrub(app.backend)
    root.rename(root.with_name("mountpoint"))
    mounted.rename(root)
    assert app.client.get(f"/{ADAPTER}/resolve/main/README.md").content == README
    assert not maintenance.check_invariants(app.backend, is_deep=True).problems


def test_a_registry_does_not_start_on_a_storage_that_is_not_its_own(app: App, tmp_path: Path) -> None:
    """Or a scrub would find every byte that it has damaged."""
    home = app.backend.settings.registry_home
    for command in (["serve", "--port", "0"], ["worker"]):
        told = {**os.environ, "LORAHUB_STORAGE": str(tmp_path / "another")}
        done = subprocess.run(
            [LORAHUB, *command, "--home", str(home)], capture_output=True, text=True, check=False, env=told, timeout=60
        )
        assert done.returncode == 2, done.stdout + done.stderr
        assert "is its disk mounted?" in done.stderr
