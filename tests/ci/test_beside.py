"""What drifts beside weights and shapes: tokenizer, chat template, special tokens, generation defaults, the adapter."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import safetensors_bytes, write_adapter
from lorahub.adapters.beside import facts_beside
from lorahub.adapters.files import FolderFiles
from lorahub.cli.main import main
from lorahub.hub.bases import hash_folder
from lorahub.hub.describe import describe
from lorahub.hub.progress import Silence

TEMPLATE = "{% for message in messages %}\n<|{{ message.role }}|>\n{{ message.content }}\n{% endfor %}"


def write_base(folder: Path) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)]
    weights = safetensors_bytes({name: random.standard_normal((16, 16)) for name in names})
    (folder / "model.safetensors").write_bytes(weights)
    files = {
        "config.json": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
        "tokenizer.json": {"version": "1.0", "model": {"vocab": {"a": 0}}},
        "tokenizer_config.json": {"chat_template": TEMPLATE, "eos_token": {"content": "</s>"}, "bos_token": "<s>"},
        "generation_config.json": {"temperature": 1.0, "top_p": 0.9, "transformers_version": "5.0"},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def change(place: Path, **values: Any) -> None:
    place.write_text(json.dumps(json.loads(place.read_text()) | values))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """As `lorahub train` leaves it: with what it was trained beside, and the tokenizer."""
    base = write_base(tmp_path / "base")
    folder = write_adapter(tmp_path / "adapter", base="acme/llama")
    manifest = describe(folder, [hash_folder(base, Silence())])
    assert manifest is not None
    stated = json.loads(manifest)
    stated["base"] |= facts_beside(FolderFiles(base))
    (folder / "lorahub.json").write_text(json.dumps(stated))
    return folder


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / "home"))

    def check(base: str, *more: str, level: str = "drift") -> dict[str, Any]:
        """Findings by rule."""
        with pytest.raises(SystemExit):
            main(["--json", "check", "adapter", "--base", base, "--level", level, *more])
        [row] = json.loads(capsys.readouterr().out)["result"]["checks"]
        return {one["rule"]: one for one in row["findings"]}

    return check


CHANGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "tokenizer": ("LH110", lambda base: change(base / "tokenizer.json", version="2.0"), "tokenizer is another one"),
    "special token": (
        "LH112",
        lambda base: change(base / "tokenizer_config.json", eos_token="<|eot_id|>"),
        'eos_token is "<|eot_id|>" now, and was "</s>"',
    ),
    "generation default": (
        "LH113",
        lambda base: change(base / "generation_config.json", temperature=0.6),
        "temperature is 0.6 now, and was 1.0",
    ),
    "chat template": (
        "LH111",
        lambda base: change(base / "tokenizer_config.json", chat_template=TEMPLATE.replace("<|", "[")),
        "chat template is another one",
    ),
    "chat template in a file of its own": (
        "LH111",
        lambda base: (base / "chat_template.jinja").write_text("{{ messages }}") and None,
        "chat template is another one",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_has_changed_beside_the_weights_is_found(
    adapter: Path, found: Callable[..., Any], tmp_path: Path, what: str
) -> None:
    rule, act, message = CHANGES[what]
    assert adapter.is_dir()
    assert found("./base") == {}
    shutil.copytree(tmp_path / "base", tmp_path / "next")
    act(tmp_path / "next")
    told = found("./next")
    assert list(told) == [rule]
    assert told[rule]["severity"] == "warning"
    assert message in told[rule]["message"]
    assert found("./next", level="shapes") == {}, "headers only"


def test_the_first_difference_of_a_template_is_told(adapter: Path, found: Callable[..., Any], tmp_path: Path) -> None:
    """Where the adapter brings its own."""
    (adapter / "chat_template.jinja").write_text(TEMPLATE)
    change(tmp_path / "base/tokenizer_config.json", chat_template=TEMPLATE.replace("<|{{", "[{{"))
    first = found("./base")["LH111"]
    assert "from line 2 on" in first["message"]
    assert first["evidence"][0] == {
        "name": "line 2", "found": "[{{ message.role }}|>", "expected": "<|{{ message.role }}|>",
    }  # fmt: skip


def test_what_isnt_recorded_anywhere_is_no_difference(adapter: Path, found: Callable[..., Any], tmp_path: Path) -> None:
    (adapter / "lorahub.json").unlink()
    change(tmp_path / "base/tokenizer_config.json", chat_template="{{ x }}")
    assert not {"LH110", "LH111", "LH112", "LH113"} & found("./base").keys()


def test_other_weights_than_lorahub_json_says(adapter: Path, found: Callable[..., Any]) -> None:
    raw = bytearray((adapter / "adapter_model.safetensors").read_bytes())
    raw[-4:] = b"\x00\x00\x80\x3f"
    (adapter / "adapter_model.safetensors").write_bytes(raw)
    told = found("./base")
    assert list(told) == ["LH309"]
    assert "adapter_model.safetensors" in told["LH309"]["message"]


def test_drift_that_cant_be_measured_leaves_it_undecided(
    adapter: Path, found: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry has the digests that it is measured from, and can't be reached."""
    assert adapter.is_dir()
    shutil.copytree(tmp_path / "base", tmp_path / "next")
    weights = bytearray((tmp_path / "next/model.safetensors").read_bytes())
    weights[-4:] = b"\x00\x00\x80\x3f"
    (tmp_path / "next/model.safetensors").write_bytes(weights)
    monkeypatch.setenv("LORAHUB_ENDPOINT", "http://127.0.0.1:9")
    told = found("./next")
    assert "can't reach http://127.0.0.1:9" in told["LH506"]["message"]
    assert "LH103" in told
