"""Merged revisions through stock clients: models that are nowhere stored."""

import hashlib
import json
import os
import random
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import httpx2
import huggingface_hub
import lorahub
import peft
import pytest
import torch
import transformers
from corpus.merge_corpus import Stored
from lorahub.merging.recipe import Ingredient, Recipe, recipe_of
from registry_process import BIN, Registry


@pytest.fixture
def stored(registry: Registry, user: tuple[str, str], store: Callable[..., Stored]) -> Stored:
    return store(registry, user, seed=random.randrange(1 << 30))


def _client(registry: Registry, token: str) -> httpx2.Client:
    return httpx2.Client(base_url=registry.url, headers={"Authorization": f"Bearer {token}"})


def _merged_files(registry: Registry, stored: Stored, revision: str = "merged%2Fv1") -> dict[str, int]:
    with _client(registry, stored.token) as client:
        answer = client.get(f"/api/models/{stored.adapter}/revision/{revision}", params={"blobs": "true"})
        assert answer.status_code == 200, answer.text
        return {file["rfilename"]: file["size"] for file in answer.json()["siblings"]}


def _get(
    registry: Registry, stored: Stored, path: str, revision: str = "merged%2Fv1", **headers: str
) -> httpx2.Response:
    with _client(registry, stored.token) as client:
        return client.get(f"/{stored.adapter}/resolve/{revision}/{path}", headers=headers)


def test_transformers_loads_it(registry: Registry, stored: Stored, tmp_path: Path) -> None:
    local = huggingface_hub.snapshot_download(
        stored.adapter,
        revision="merged/v1",
        endpoint=registry.url,
        token=stored.token,
        cache_dir=tmp_path / "cache",
    )
    merged = transformers.AutoModelForCausalLM.from_pretrained(local, dtype=torch.float32)
    base = transformers.AutoModelForCausalLM.from_pretrained(stored.base_folder, dtype=torch.float32)
    ids = torch.arange(1, 20)[None]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = base(ids).logits
        theirs = peft.PeftModel.from_pretrained(base, stored.adapter_folder)(ids).logits
        ours = merged(ids).logits
    moved = (theirs - plain).norm()
    assert (ours - theirs).norm() < 0.1 * moved  # bfloat16's rounding of the weights


def test_the_same_bytes_as_a_merge_on_this_machine(registry: Registry, stored: Stored, tmp_path: Path) -> None:
    recipe = recipe_of({"base": str(stored.base_folder), "adapters": [str(stored.adapter_folder)]})
    with lorahub.Hub(registry.url, token=stored.token) as hub:
        folder = hub.merge(recipe, tmp_path / "merged")
    files = _merged_files(registry, stored)
    weights = [path for path in files if path.endswith((".safetensors", ".index.json")) or path == "config.json"]
    assert len(weights) > 3
    for path in weights:
        content = _get(registry, stored, path).content
        assert len(content) == files[path]
        assert content == (folder / path).read_bytes(), path


def test_any_range_is_part_of_the_whole(registry: Registry, stored: Stored) -> None:
    files = _merged_files(registry, stored)
    wholes = {path: _get(registry, stored, path).content for path in files}
    chosen = random.Random(7)
    with _client(registry, stored.token) as client:
        for _ in range(300):
            path = chosen.choice(list(files))
            start = chosen.randrange(files[path])
            stop = min(files[path], start + chosen.choice([1, 2, 100, 5000, 50_000]))
            answer = client.get(
                f"/{stored.adapter}/resolve/merged%2Fv1/{path}", headers={"Range": f"bytes={start}-{stop - 1}"}
            )
            assert answer.status_code == 206
            assert answer.content == wholes[path][start:stop]
            assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{files[path]}"


def test_names_lead_to_one_id_with_stable_etags(registry: Registry, stored: Stored) -> None:
    by_branch = _get(registry, stored, "config.json", "merged")
    by_version = _get(registry, stored, "config.json", "merged%2Fv1")
    commit = by_version.headers["x-repo-commit"]
    by_id = _get(registry, stored, "config.json", commit)
    assert by_branch.headers["x-repo-commit"] == commit == by_id.headers["x-repo-commit"]
    assert by_branch.headers["etag"] == by_version.headers["etag"] == by_id.headers["etag"]
    assert len(by_id.headers["etag"].strip('"')) != 64
    assert by_branch.content == by_version.content == by_id.content


def test_tree_and_paths(registry: Registry, stored: Stored) -> None:
    files = _merged_files(registry, stored)
    with _client(registry, stored.token) as client:
        tree = client.get(f"/api/models/{stored.adapter}/tree/merged%2Fv1", params={"recursive": "true"}).json()
        info = client.post(f"/api/models/{stored.adapter}/paths-info/merged%2Fv1", data={"paths": ["config.json"]})
    assert {entry["path"]: entry["size"] for entry in tree} == files
    assert [entry["path"] for entry in info.json()] == ["config.json"]


def test_lineage_names_what_it_is_made_of(registry: Registry, stored: Stored) -> None:
    lineage = _get(registry, stored, "lorahub-merge.json").json()
    assert lineage["recipe"]["base"] == stored.base
    weights = stored.adapter_folder / "adapter_model.safetensors"
    assert lineage["of"]["adapters"][0][weights.name] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_a_recipe_repository(registry: Registry, stored: Stored, tmp_path: Path) -> None:
    recipe = {"base": stored.base, "adapters": [{"source": f"{stored.adapter}@v1", "weight": 0.5}]}
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "lorahub-merge.yaml").write_text(json.dumps(recipe))
    api = huggingface_hub.HfApi(endpoint=registry.url, token=stored.token)
    api.create_repo(f"{stored.namespace}/mix")
    api.upload_folder(repo_id=f"{stored.namespace}/mix", folder_path=tmp_path / "recipe")
    local = Recipe(str(stored.base_folder), (Ingredient(str(stored.adapter_folder), 0.5),))
    with lorahub.Hub(registry.url, token=stored.token) as hub:
        folder = hub.merge(local, tmp_path / "local")
    weights = [path.name for path in folder.glob("*.safetensors")]
    with _client(registry, stored.token) as client:
        for path in weights:
            assert client.get(f"/{stored.namespace}/mix/resolve/merged/{path}").content == (folder / path).read_bytes()


def test_who_may_not_read_the_base_may_not_read_the_merge(
    registry: Registry, stored: Stored, new_user: Callable[[], tuple[str, str]]
) -> None:
    with _client(registry, stored.token) as client:
        answer = client.put(f"/api/models/{stored.base}/settings", json={"private": True})
        assert answer.status_code == 200, answer.text
    _, other = new_user()
    with _client(registry, other) as client:
        refused = client.get(f"/{stored.adapter}/resolve/merged/config.json")
        commit = _get(registry, stored, "config.json").headers["x-repo-commit"]
        by_id = client.get(f"/{stored.adapter}/resolve/{commit}/config.json")
    assert refused.status_code == 404
    assert "not stored on this registry" in refused.headers["x-error-message"]
    assert by_id.status_code == 404


def test_a_download_that_was_cut_off_goes_on(registry: Registry, stored: Stored, tmp_path: Path) -> None:
    """As the stock client does it: half a file lies there, the rest is asked for by range."""
    files = _merged_files(registry, stored)
    path = next(path for path in files if path.endswith(".safetensors"))
    whole = _get(registry, stored, path)
    cut = tmp_path / "cut"
    command = f"{registry.url}/{stored.adapter}/resolve/merged%2Fv1/{path}"
    with httpx2.stream("GET", command, headers={"Authorization": f"Bearer {stored.token}"}) as answer:
        first = next(answer.iter_bytes(1000))
        cut.write_bytes(first)
        etag = answer.headers["etag"]
    rest = _get(registry, stored, path, Range=f"bytes={len(first)}-")
    assert rest.status_code == 206
    assert rest.headers["etag"] == etag
    assert first + rest.content == whole.content


def _size(path: Path) -> int:
    """Zero where the client has renamed it meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_the_stock_client_is_killed_and_goes_on(
    registry: Registry, user: tuple[str, str], store: Callable[..., Stored], tmp_path: Path
) -> None:
    sizes = {"vocab_size": 60_000, "hidden_size": 256}
    stored = store(registry, user, seed=random.randrange(1 << 30), sizes=sizes, target_modules=["embed_tokens"])
    target = tmp_path / "fetched"
    command = [BIN / "hf", "download", stored.adapter, "--revision", "merged/v1", "--local-dir", target]
    environment = {**os.environ, "HF_ENDPOINT": registry.url, "HF_TOKEN": stored.token, "HF_HUB_DISABLE_XET": "1"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not any(_size(path) > 1 << 20 for path in target.rglob("*.incomplete")):
        time.sleep(0.001)
    first.kill()
    first.wait()
    assert any(target.rglob("*.incomplete"))
    subprocess.run(command, env=environment, check=True, capture_output=True)
    with lorahub.Hub(registry.url, token=stored.token) as hub:
        recipe = Recipe(str(stored.base_folder), (Ingredient(str(stored.adapter_folder)),))
        local = hub.merge(recipe, tmp_path / "local")
    for path in local.glob("*.safetensors"):
        assert path.read_bytes() == (target / path.name).read_bytes(), path.name


def test_two_servers_give_the_same_bytes(registry: Registry, stored: Stored) -> None:
    other = Registry(registry.home, dict(registry.settings)).start()
    try:
        for path in _merged_files(registry, stored):
            one, two = _get(registry, stored, path), _get(other, stored, path)
            assert one.content == two.content
            assert one.headers["etag"] == two.headers["etag"]
            assert one.headers["x-repo-commit"] == two.headers["x-repo-commit"]
    finally:
        other.stop()


@pytest.mark.parametrize("name", ["merged", "merged/v1"])
def test_nothing_else_may_be_called_so(registry: Registry, stored: Stored, name: str) -> None:
    api = huggingface_hub.HfApi(endpoint=registry.url, token=stored.token)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="merged"):
        api.create_branch(stored.adapter, branch=name)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="merged"):
        api.create_tag(stored.adapter, tag=name)


def test_of_what_is_no_adapter(registry: Registry, stored: Stored) -> None:
    with _client(registry, stored.token) as client:
        answer = client.get(f"/{stored.base}/resolve/merged/config.json")
    assert answer.status_code == 422
    assert answer.headers["x-error-code"] in ("NotMergeable", "AdapterDoesNotFit")
