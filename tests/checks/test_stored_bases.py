"""GGUF files and quantised checkpoints in the commands that take a base, and on a registry."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpus import golden, stored_bases
from lorahub import Hub
from registry_process import LORAHUB, Registry

ADAPTER = golden.adapters()["lora"].folder
WAYS = ("gguf", "nf4", "gptq", "fp8")

Command = Callable[..., dict[str, Any]]


def write(way: str, folder: Path) -> Path:
    """The golden llama, and the path by which it is named."""
    llama = golden.bases()["llama"]
    if way == "gguf":
        return stored_bases.write_gguf(llama, folder / "model.gguf", "llama")
    return stored_bases.write_quantised(llama, folder, way)


@pytest.fixture
def command(registry: Registry, user: tuple[str, str], tmp_path: Path) -> Command:
    _name, token = user
    environment = {**os.environ, "LORAHUB_HOME": str(tmp_path / ".home"), "LORAHUB_ENDPOINT": registry.url}

    def run(*words: object, code: int = 0) -> dict[str, Any]:
        told = subprocess.run(
            [LORAHUB, "--json", *map(str, words)],
            env=environment | {"LORAHUB_TOKEN": token},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert told.returncode == code, told.stdout + told.stderr
        return dict(json.loads(told.stdout.strip().splitlines()[-1]))

    return run


@pytest.mark.parametrize("way", WAYS)
def test_every_command_takes_it(way: str, command: Command, user: tuple[str, str], tmp_path: Path) -> None:
    base, name = write(way, tmp_path / "base"), f"{user[0]}/{way}"
    info = command("base", "info", base)["result"]
    assert (info["architecture"], info["quantised"]) == ("LlamaForCausalLM", True)
    added = command("base", "add", base, name)["result"]
    assert added["layout_digest"] == info["layout_digest"]
    assert added["weights_digest"]
    for named in (base, name):
        [found] = command("check", ADAPTER, "--base", named)["result"]["checks"]
        assert (found["verdict"], found["matched"], found["of"]) == ("fits", 6, 6)
    [told] = command("identify", base)["result"].values()
    assert told["base"] == {"name": name, "revision": None, "by": "weights"}
    plain = command("estimate", golden.bases()["llama"], "--rank", "4", "--targets", "q,v")["result"]
    for named in (base, name):
        assert (
            command("estimate", named, "--rank", "4", "--targets", "q,v")["result"]["trainable"] == plain["trainable"]
        )
    refused = command("merge", base, ADAPTER, "-o", tmp_path / "merged", code=7)["error"]
    assert refused["code"] == "NotMergeable"
    assert "merging into such weights isn't supported yet" in refused["message"]
    assert not (tmp_path / "merged").exists()


def test_a_repository_of_a_gguf_file_is_a_base(registry: Registry, user: tuple[str, str], tmp_path: Path) -> None:
    owner, token = user
    base = write("gguf", tmp_path / "base")
    with Hub(registry.url, token=token) as hub:
        hub.push(base.parent, f"{owner}/model")
        pushed = hub.push(ADAPTER, f"{owner}/tuned", base=f"{owner}/model")
        checked = hub.checked(f"{owner}/tuned@{pushed.version}")
        assert hub.checked(f"{owner}/model") is None
    assert checked is not None
    assert (checked.verdict, checked.matched) == ("compatible", 6)
