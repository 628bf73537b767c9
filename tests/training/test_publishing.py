"""Trained, pushed, checked, pulled, merged: at each station the same logits; and what others trained."""

import json
import os
import re
from pathlib import Path
from typing import Any

import lorahub
import peft
import pytest
import torch
from builders import write_adapter
from lorahub import Hub, TrainConfig
from lorahub.adapters.manifest import parse_manifest
from lorahub.errors import InvalidAdapterConfig
from lorahub.merging.recipe import Ingredient, Recipe
from registry_process import Registry
from training.test_runs import FLAGS, SMALL, base_model, command, logits

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT asks transformers for what is deprecated there


@pytest.fixture(scope="module")
def somebody(registry: Registry) -> tuple[str, str]:
    """One user for the file: (name, token)."""
    name = f"trainer-{os.getpid()}"
    return name, registry.add_user(name)


def train_by_command(registry: Registry, user: tuple[str, str], base: str, rows: Path, folder: Path) -> dict[str, Any]:
    name, token = user
    (folder / "token").write_text(token)
    (folder / "run.toml").write_text("steps = 20\nrank = 2\nlr = 1\n")
    said = command(
        folder, "train", base, rows, "-o", folder / "out", *FLAGS[:-2], "--config", folder / "run.toml",
        "--push", f"{name}/colours", "--json", "--endpoint", registry.url, "--token-file", folder / "token",
    )  # fmt: skip
    result: dict[str, Any] = json.loads(said.stdout)["result"]
    assert result["reference"] == f"{name}/colours@v1"
    return result


def test_from_rows_to_a_merged_model(
    llama: Path, rows: Path, registry: Registry, somebody: tuple[str, str], tmp_path: Path
) -> None:
    name, token = somebody
    with Hub(registry.url, token=token) as hub:
        hub.push(llama, f"{name}/base")
        result = train_by_command(registry, somebody, f"{name}/base", rows, tmp_path)
        checked = hub.checked(f"{name}/colours@v1")
        pulled = hub.pull(f"{name}/colours@v1", tmp_path / "pulled").path
        hub.merge(Recipe(str(llama), (Ingredient(str(pulled)),)), tmp_path / "merged")

    assert (result["run"]["config"]["rank"], result["run"]["steps"]) == (4, 20)  # flags win over the file
    manifest = parse_manifest((pulled / "lorahub.json").read_bytes())
    assert checked is not None
    assert (checked.verdict, checked.findings) == ("compatible", ())
    assert manifest.base is not None
    assert manifest.base.name == f"{name}/base"
    assert manifest.raw["base"]["revision"]
    training = checked.facts.training
    assert training == json.loads(json.dumps(manifest.training))
    assert (training["origin"], training["run"]["steps"], training["data"]["format"]) == ("trained", 20, "completion")
    assert len(training["run"]["curve"]) == 21
    with registry.client(token) as client:
        client.headers["Accept"] = "text/html"
        page, twin = (client.get(f"/{name}/colours/training/v1{ending}") for ending in ("", ".json"))
    assert [[point["step"], point.get("loss"), point.get("eval_loss")] for point in twin.json()["points"]] == training[
        "run"
    ]["curve"]
    assert twin.json()["record"] == training
    assert "<polyline" in page.text
    assert "What its maker states" in page.text

    expected = logits(peft.PeftModel.from_pretrained(base_model(llama), tmp_path / "out"))
    assert torch.equal(logits(peft.PeftModel.from_pretrained(base_model(llama), pulled)), expected)
    merged = logits(base_model(tmp_path / "merged"))
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, logits(base_model(llama)), atol=0.1)


def test_a_gpt2_goes_the_same_way(
    gpt2: Path, rows: Path, registry: Registry, somebody: tuple[str, str], tmp_path: Path
) -> None:
    name, token = somebody
    config = TrainConfig(steps=10, **SMALL | {"base_name": f"{name}/gpt2"})
    run = lorahub.train(gpt2, rows, config, output=tmp_path / "out")
    with Hub(registry.url, token=token) as hub:
        hub.push(gpt2, f"{name}/gpt2")
        hub.push(run.adapter_dir, f"{name}/colours-of-gpt2")
        checked = hub.checked(f"{name}/colours-of-gpt2")
        pulled = hub.pull(f"{name}/colours-of-gpt2", tmp_path / "pulled").path
        hub.merge(Recipe(str(gpt2), (Ingredient(str(pulled)),)), tmp_path / "merged")
    assert checked is not None
    assert (checked.verdict, checked.findings) == ("compatible", ())
    expected = logits(peft.PeftModel.from_pretrained(base_model(gpt2), pulled))
    torch.testing.assert_close(logits(base_model(tmp_path / "merged")), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"run": []}, "run in lorahub.json is not an object"),
        ({"run": {"steps": -1}}, "run.steps in lorahub.json is not a whole number"),
        ({"run": {"steps": True}}, "run.steps"),
        ({"run": {"seconds": "long"}}, "run.seconds"),
        ({"run": {"loss": {"last": "low"}}}, "run.loss"),
        ({"run": {"curve": [[1, 2.0]]}}, "run.curve"),
        ({"run": {"curve": [[n, 2.0, None] for n in range(201)]}}, "at most 200 points"),
        ({"run": {"curve": [[2, 2.0, None], [1, 2.0, None]]}}, "in the order of their steps"),
        ({"data": {"a": {"b": {"c": {"d": {}}}}}}, "levels"),
        ({"code": {"torch": "2" * 2000}}, "characters"),
        ({"hardware": {"x": list(range(300))}}, "values"),
    ],
)
def test_a_record_of_training_that_is_none_is_refused(record: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidAdapterConfig, match=re.escape(said)):
        parse_manifest(json.dumps({"schema": 1, "origin": "trained", **record}).encode())


LEFT_BY: dict[str, dict[str, bytes]] = {
    "trl": {"training_args.bin": b"\x80\x04", "chat_template.jinja": b"{{ x }}"},
    "unsloth": {"tokenizer_config.json": b"{}"},
    "axolotl": {"config.json": b'{"model_type": "llama"}', "debug.log": b"..."},
    "torchtune": {"recipe.yaml": b"lr: 1"},
}


def test_what_other_trainers_made_is_marked_external(
    registry: Registry, somebody: tuple[str, str], tmp_path: Path
) -> None:
    """The folders that these tools leave: PEFT's files, and theirs beside them."""
    name, token = somebody
    with Hub(registry.url, token=token) as hub:
        for tool, left in LEFT_BY.items():
            folder = write_adapter(tmp_path / tool)
            for path, content in left.items():
                (folder / path).write_bytes(content)
            pushed = hub.push(folder, f"{name}/{tool}")
            checked = hub.checked(f"{name}/{tool}")
            told = json.loads(
                (hub.pull(f"{name}/{tool}", tmp_path / f"{tool}-pulled").path / "lorahub.json").read_text()
            )
            assert told["origin"] == "external"
            assert [told[part] for part in ("run", "data", "code", "hardware")] == [None] * 4
            assert checked is not None
            assert checked.facts.training is None
            assert {one.path for one in pushed.left} == set(left) & {"training_args.bin", "debug.log"}
