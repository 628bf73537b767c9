"""`lorahub import hf:…`: another registry stands for the public Hub, whose protocol it speaks."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import wire
from builders import lora_config, lora_weights
from registry_process import LORAHUB, Registry


def cli(registry: Registry, hub: Registry, *arguments: str) -> dict[str, Any]:
    environment = {
        **os.environ,
        "LORAHUB_ENDPOINT": registry.url,
        "LORAHUB_TOKEN": registry.token,
        "LORAHUB_HF_ENDPOINT": hub.url,
    }
    result = subprocess.run(
        [LORAHUB, *arguments, "--json"], capture_output=True, text=True, check=False, env=environment
    )
    assert result.stdout, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_a_revision_of_the_hub_becomes_a_version_that_says_where_it_is_from(
    own_registry: Registry, registry: Registry
) -> None:
    weights = lora_weights(seed=3)
    with own_registry.client() as hub:
        there = wire.create_repo(hub, "owner/adapter")
        wire.upload(hub, there, weights)
        config = json.dumps(lora_config()).encode()
        lines = [wire.uploaded("adapter_model.safetensors", weights), wire.inline("adapter_config.json", config)]
        pinned = wire.commit(hub, there, lines).json()["commitOid"]
        wire.commit(hub, there, [wire.inline("later.txt", b"later")])

    here = f"{registry.admin}/imported"
    made = cli(registry, own_registry, "import", f"hf:{there}@{pinned[:10]}", here, "--private")
    assert made["ok"], made
    assert made["result"]["reference"] == f"{here}@v1"
    with registry.client() as client, registry.client(None) as anyone:
        assert anyone.get(f"/api/models/{here}").status_code == 404
        files = wire.files(client, here, "v1")
        assert files["adapter_model.safetensors"] == wire.sha256(weights)
        assert files["adapter_config.json"] == wire.sha256(config)
        assert "later.txt" not in files
        said = client.get(f"/{here}/resolve/v1/lorahub.json").json()
        assert said["parents"] == [f"hf:{there}@{pinned}"]
        assert (
            client.get(f"/api/lorahub/v1/models/{here}/versions").json()[0]["message"] == f"Import hf:{there}@{pinned}"
        )
    again = cli(registry, own_registry, "import", f"hf:{there}@{pinned}", here)
    assert (again["result"]["reference"], again["result"]["created"]) == (f"{here}@v1", False)
    newest = cli(registry, own_registry, "import", f"hf:{there}", here)
    assert newest["result"]["reference"] == f"{here}@v2"


def test_bytes_that_are_not_what_the_hub_says_are_not_imported(own_registry: Registry, registry: Registry) -> None:
    weights = lora_weights(seed=4)
    with own_registry.client() as hub:
        there = wire.create_repo(hub, "owner/adapter")
        wire.upload(hub, there, weights)
        wire.commit(hub, there, [wire.uploaded("adapter_model.safetensors", weights)])
    [key] = [key for key in own_registry.objects.list("blobs/") if wire.sha256(weights) in key]
    own_registry.objects.write(key, bytes([*weights[:-1], weights[-1] ^ 1]))
    here = f"{registry.admin}/wrong"
    assert cli(registry, own_registry, "import", f"hf:{there}", here)["error"]["code"] == "DigestMismatch"
    with registry.client() as client:
        assert client.get(f"/api/models/{here}").status_code == 404


def test_what_is_neither_there_nor_on_the_hub_is_said(registry: Registry, tmp_path: Path) -> None:
    assert cli(registry, registry, "import", "hf:nobody/nothing", "owner/x")["error"]["code"] == "RepoNotFound"
    missing = cli(registry, registry, "import", str(tmp_path / "no.bin"), str(tmp_path), "--unsafe-pickle")
    assert missing["error"]["code"] == "Usage"
