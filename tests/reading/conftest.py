"""A repository with a file of each kind: small, large, empty, and one that is computed while it is read."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import builders
import httpx2
import lorahub
import numpy as np
import pytest
from registry_process import IN_A_FOLDER, Registry, serve

KINDS = {
    "small": "resolve/{}/notes.txt",
    "large": "resolve/{}/adapter_model.safetensors",
    "computed": "resolve/merged%2F{}/model.safetensors",
}


@dataclass(frozen=True)
class Shelf:
    """Of one user; each version has other content of the same size."""

    registry: Registry
    token: str
    repo: str
    folder: Path

    def client(self) -> httpx2.Client:
        return self.registry.client(self.token)

    def address(self, kind: str, revision: str = "main") -> str:
        return f"/{self.repo}/{KINDS[kind].format(revision)}"

    def push(self, seed: int, *aliases: str) -> str:
        """The version's name."""
        adapter = builders.write_adapter(self.folder / str(seed), seed=seed, base=f"{self.repo}-base")
        (adapter / "notes.txt").write_text(f"{seed:06}" * 50)
        (adapter / "empty.txt").write_bytes(b"")
        (adapter / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
        with lorahub.Hub(self.registry.url, token=self.token) as hub:
            pushed = hub.push(adapter, self.repo, aliases=aliases)
        assert pushed.version is not None
        return pushed.version


@pytest.fixture(scope="package")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """On a folder, so that all answers are its own; `test_conditions_on_a_bucket.py` has what a bucket adds."""
    running = serve(tmp_path_factory.mktemp("registry"), IN_A_FOLDER)
    yield running
    running.stop()
    running.assert_sound()


@pytest.fixture
def shelf(registry: Registry, new_user: Callable[[], tuple[str, str]], tmp_path: Path) -> Shelf:
    """With a first version."""
    name, token = new_user()
    made = Shelf(registry, token, f"{name}/read", tmp_path)
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    weights = {f"model.layers.{i}.self_attn.q_proj.weight": np.full((16, 16), 0.5) for i in range(2)}
    (base / "model.safetensors").write_bytes(builders.safetensors_bytes(weights))
    with lorahub.Hub(registry.url, token=token) as hub:
        hub.push(base, f"{made.repo}-base")
    made.push(1)
    return made
