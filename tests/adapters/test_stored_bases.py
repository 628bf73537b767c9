"""Bases as people have them: GGUF files and quantised checkpoints have the layout of the weights they stand for."""

import hashlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from corpus import golden, stored_bases
from lorahub.adapters.base_model import BaseLayout, base_from_text, places_of, read_base
from lorahub.adapters.check import Report, check
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.gguf_base import known_names
from lorahub.adapters.reader import read_adapter
from lorahub.errors import InvalidBaseModel
from lorahub.hub.bases import hash_folder
from lorahub.hub.progress import Silence

ADAPTERS = golden.adapters()
ARCHITECTURES = {"llama": "llama", "llama-tied": "llama", "gpt2": "gpt2", "moe": "qwen3moe"}


@cache
def plain(name: str) -> BaseLayout:
    return read_base(FolderFiles(golden.bases()[name]), name=f"acme/{name}")


def judged(adapter: str, base: BaseLayout) -> Report:
    return check(read_adapter(FolderFiles(ADAPTERS[adapter].folder)), base)


def require_the_same(base: BaseLayout, of: str) -> None:
    """Every adapter of the real PEFT is judged as on the plain base."""
    for name, made in ADAPTERS.items():
        if made.base == of:
            expected, found = judged(name, plain(of)), judged(name, base.named(f"acme/{of}"))
            told = [one for one in found.findings if one.rule != "LH107"]
            assert (found.verdict, found.matched, found.of) == (expected.verdict, expected.matched, expected.of), name
            assert [one.rule for one in told] == [one.rule for one in expected.findings], name


def shapes(base: BaseLayout) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in base.tensors.items()}


# --- GGUF -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_gguf_file_has_the_layout_of_its_model(name: str, tmp_path: Path) -> None:
    file = stored_bases.write_gguf(golden.bases()[name], tmp_path / "model.gguf", ARCHITECTURES[name])
    base = read_base(FolderFiles(file))
    assert shapes(base) == {named(name, one): shape for one, shape in shapes(plain(name)).items()}
    assert (base.architecture, base.unknown) == (plain(name).architecture, ())
    require_the_same(base, name)


def named(base: str, name: str) -> str:
    """As a whole model's class has it on disk: GPT-2's published files are of the model without its head."""
    return f"transformer.{name}" if base == "gpt2" and not name.startswith("transformer.") else name


def test_digests_of_a_quantised_file_are_its_own_and_of_all_its_bytes(tmp_path: Path) -> None:
    llama = golden.bases()["llama-wide"]
    files = [
        stored_bases.write_gguf(llama, tmp_path / f"{kind}.gguf", "llama", kind=kind)
        for kind in ("F32", "Q8_0", "Q4_0")
    ]
    whole, eight, four = (hash_folder(file, Silence()) for file in files)
    assert shapes(whole) == shapes(eight) == shapes(four)
    assert len({one.layout_digest for one in (whole, eight, four)}) == 3
    assert eight.files == {"Q8_0.gguf": hashlib.sha256(files[1].read_bytes()).hexdigest()}
    changed = bytearray(files[1].read_bytes())
    changed[next(start for name, start, _ in places_of(FolderFiles(files[1]), "Q8_0.gguf") if "attn_q" in name)] ^= 1
    (tmp_path / "changed.gguf").write_bytes(changed)
    other = hash_folder(tmp_path / "changed.gguf", Silence())
    assert (other.layout_digest, other.weights_digest == eight.weights_digest) == (eight.layout_digest, False)
    assert eight.bytes < 0.5 * whole.bytes
    again = base_from_text(eight.weights_text() or "", eight.config)
    assert (again.layout_digest, again.weights_digest) == (eight.layout_digest, eight.weights_digest)


def test_parts_of_a_file_are_one_model_and_two_models_are_not(tmp_path: Path) -> None:
    llama = golden.bases()["llama"]
    stored_bases.write_gguf(llama, tmp_path / "parts" / "model.gguf", "llama", shards=3)
    (tmp_path / "parts" / "mmproj-model.gguf").write_bytes(b"GGUF")
    assert shapes(read_base(FolderFiles(tmp_path / "parts"))) == shapes(plain("llama"))
    next((tmp_path / "parts").glob("*-00002-of-*")).unlink()
    assert [one.rule for one in read_base(FolderFiles(tmp_path / "parts")).findings] == ["LH108", "LH107"]
    for name in ("Q4", "Q8"):
        stored_bases.write_gguf(llama, tmp_path / "two" / f"{name}.gguf", "llama")
    with pytest.raises(InvalidBaseModel, match="2 models are there") as refused:
        read_base(FolderFiles(tmp_path / "two"))
    assert refused.value.hint == "name one of the files"


def test_an_architecture_that_nobody_knows_is_undecided(tmp_path: Path) -> None:
    base = read_base(FolderFiles(stored_bases.write_gguf(golden.bases()["llama"], tmp_path / "model.gguf", "xverse")))
    report = judged("lora", base)
    assert (report.verdict, [one.rule for one in report.findings]) == ("undecided", ["LH107"])
    assert "blk.0.attn_q.weight" in [piece.name for piece in report.findings[0].evidence]


def test_a_wrong_base_in_a_gguf_file_is_told_as_such(tmp_path: Path) -> None:
    base = read_base(
        FolderFiles(stored_bases.write_gguf(golden.bases()["llama-wide"], tmp_path / "model.gguf", "llama"))
    )
    report = judged("lora", base)
    assert report.verdict == "incompatible"
    assert "LH202" in [one.rule for one in report.findings]


def test_every_architecture_in_the_table_names_an_embedding_and_blocks() -> None:
    for architecture, variants in known_names().items():
        for one in variants:
            assert one.name_of("token_embd.weight"), architecture
            assert any("blk.{}." in name for name in one.names), architecture


@pytest.mark.sweep
def test_the_table_is_that_of_llama_cpp_and_transformers() -> None:
    tool = Path(__file__).parents[2] / "tools" / "gguf_names.py"
    told = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True, check=False, timeout=300)
    assert told.returncode == 0, told.stderr


# --- quantised checkpoints --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", stored_bases.WAYS)
def test_a_quantised_checkpoint_has_the_layout_of_the_weights_it_stands_for(way: str, tmp_path: Path) -> None:
    base = read_base(FolderFiles(stored_bases.write_quantised(golden.bases()["llama"], tmp_path / "base", way)))
    assert shapes(base) == shapes(plain("llama"))
    assert base.layout_digest != plain("llama").layout_digest
    assert [(one.rule, one.severity) for one in base.findings] == [("LH107", "note")]
    require_the_same(base, "llama")


@pytest.mark.parametrize("way", stored_bases.WAYS)
def test_a_wrong_base_that_is_quantised_is_told_as_such(way: str, tmp_path: Path) -> None:
    base = read_base(FolderFiles(stored_bases.write_quantised(golden.bases()["llama-wide"], tmp_path / "base", way)))
    report = judged("lora", base)
    assert (report.verdict, report.matched) == ("incompatible", 0)
    assert "LH202" in [one.rule for one in report.findings]


@pytest.mark.parametrize("way", stored_bases.WAYS)
def test_scales_count_for_the_digest_of_the_weights(way: str, tmp_path: Path) -> None:
    folder = stored_bases.write_quantised(golden.bases()["llama"], tmp_path / "base", way)
    before = hash_folder(folder, Silence())
    raw = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    beside = next(name for name in header if name.endswith(("scales", "absmax", "SCB", "_scale", "_scale_inv")))
    place = start + header[beside]["data_offsets"][0]
    (folder / "model.safetensors").write_bytes(raw[:place] + b"\1" + raw[place + 1 :])
    after = hash_folder(folder, Silence())
    assert after.layout_digest == before.layout_digest
    assert before.weights_digest is not None
    assert after.weights_digest != before.weights_digest


def test_packed_tensors_that_do_not_go_together_are_undecided(tmp_path: Path) -> None:
    """A part is missing, or has another size than the others say."""
    for way, ending in (
        ("gptq", "scales"),
        ("nf4", "bitsandbytes__nf4"),
        ("pack-quantized", "_shape"),
        ("awq", "qweight"),
    ):
        folder = stored_bases.write_quantised(golden.bases()["llama"], tmp_path / way, way)
        raw = (folder / "model.safetensors").read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        tensors = {
            name: (
                one["dtype"],
                tuple(one["shape"]),
                raw[start + one["data_offsets"][0] : start + one["data_offsets"][1]],
            )
            for name, one in json.loads(raw[8:start]).items()
        }
        gone = [name for name in tensors if name.endswith(ending)]
        for name in gone:
            dtype, shape, data = tensors.pop(name)
            if way == "awq":
                tensors[name] = (dtype, (shape[0], shape[1] + 1), data + bytes(4 * shape[0]))
        (folder / "model.safetensors").write_bytes(stored_bases.safetensors(tensors))
        base = read_base(FolderFiles(folder))
        report = judged("lora", base)
        assert (report.verdict, report.matched) == ("undecided", 0), way
        assert [one.rule for one in report.findings] == ["LH107"], way
        assert report.findings[0].severity == "warning"
