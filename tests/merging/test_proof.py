"""A checkpoint is base plus adapters, or what it lacks is named: `lorahub verify MERGED --base BASE --adapter …`."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import safetensors_bytes, write_adapter
from corpus.peft_corpus import CASES, llama, write
from lorahub.cli.main import main
from peft import PeftModel
from safetensors.numpy import load_file

Q = "model.layers.{}.self_attn.q_proj.weight"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / "home"))
    capsys.readouterr()

    def act(*words: str, code: int = 0) -> Any:
        with pytest.raises(SystemExit) as ended:
            main(["--json", *words])
        said = capsys.readouterr()
        assert (ended.value.code or 0) == code, said.out + said.err
        return json.loads(said.out)["result"]

    return act


VERIFY = ("verify", "./merged", "--base", "./base", "--adapter", "./adapter=0.5")


@pytest.fixture
def merged(tmp_path: Path, run: Callable[..., Any]) -> Path:
    """Of ours."""
    random = np.random.default_rng(0)
    (tmp_path / "base").mkdir()
    tensors = {Q.format(layer): random.standard_normal((16, 16)) for layer in range(2)}
    tensors["model.norm.weight"] = random.standard_normal(16)
    (tmp_path / "base/model.safetensors").write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
    (tmp_path / "base/config.json").write_text(json.dumps({"model_type": "llama"}))
    write_adapter(tmp_path / "adapter", base="./base")
    run("merge", "./base", "./adapter=0.5", "-o", "./merged")
    return tmp_path / "merged/model.safetensors"


def test_ours_is_proved_byte_for_byte(merged: Path, run: Callable[..., Any]) -> None:
    assert merged.is_file()
    found = run(*VERIFY)
    assert found["proved"]
    assert (found["tensors"]["exact"], found["updated"]) == (3, 2)
    other = run(*VERIFY[:-1], "./adapter=0.25", code=1)
    assert {one["holds"] for one in other["wrong"]} == {"other"}
    assert [round(one["share"], 3) for one in other["wrong"]] == [2.0, 2.0], "twice as much as was said"


FORGED: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str, str]] = {
    "not merged": (lambda now, base: now.update({Q.format(1): base[Q.format(1)]}), Q.format(1), "no update"),
    "half of it": (
        lambda now, base: now.update({Q.format(0): (now[Q.format(0)] + base[Q.format(0)]) / 2}),
        Q.format(0),
        "other",
    ),
    "a number changed": (lambda now, _: now[Q.format(0)].__setitem__((3, 3), 9.0), Q.format(0), "other"),
    "NaN": (lambda now, _: now[Q.format(0)].__setitem__((3, 3), np.nan), Q.format(0), "other"),
    "what has no update is another": (
        lambda now, _: now["model.norm.weight"].__setitem__(
            0, np.nextafter(now["model.norm.weight"][0], np.float32(9))
        ),
        "model.norm.weight",
        "other",
    ),
    "left out": (lambda now, _: now.pop("model.norm.weight"), "model.norm.weight", "missing"),
    "of another shape": (lambda now, _: now.update({Q.format(0): now[Q.format(0)][:8]}), Q.format(0), "another shape"),
}


@pytest.mark.parametrize("what", FORGED)
def test_what_isnt_base_and_adapter_is_named(merged: Path, run: Callable[..., Any], tmp_path: Path, what: str) -> None:
    act, tensor, holds = FORGED[what]
    now, base = load_file(merged), load_file(tmp_path / "base/model.safetensors")
    act(now, base)
    merged.write_bytes(safetensors_bytes(now, {"format": "pt"}))
    found = run(*VERIFY, code=1)
    assert [(one["tensor"], one["holds"]) for one in found["wrong"]] == [(tensor, holds)]
    if what == "half of it":
        assert round(found["wrong"][0]["share"], 3) == 0.5


def test_the_sentence_names_the_tensor(
    merged: Path, tmp_path: Path, run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*VERIFY)["proved"]
    shutil.copy(tmp_path / "base/model.safetensors", merged)
    with pytest.raises(SystemExit):
        main(list(VERIFY))
    said = capsys.readouterr().out
    assert "2 of 3 tensors, 2 of 2 updated ones" in said
    assert f"{Q.format(1)} holds no update: it is the base's" in said


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_pefts_own_merge_is_within_its_rounding(run: Callable[..., Any], tmp_path: Path, dtype: str) -> None:
    import torch

    model = llama().to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "base")
    write(CASES["lora"], tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT's own
        theirs: Any = PeftModel.from_pretrained(model, tmp_path / "adapter")
        theirs.merge_and_unload().save_pretrained(tmp_path / "merged")
    found = run("verify", "./merged", "--base", "./base", "--adapter", "./adapter")
    assert found["proved"], found
    assert found["updated"] > 0
    bare = run("verify", "./base", "--base", "./base", "--adapter", "./adapter", code=1)
    assert {one["holds"] for one in bare["wrong"]} == {"no update"}
    assert len(bare["wrong"]) == found["updated"]
