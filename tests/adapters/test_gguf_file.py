"""GGUF against llama.cpp's own package, and against hostile headers."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from lorahub.adapters.adapter import Naming
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.gguf_file import BLOCKS, RULES, GgufHeader, SkippedArray, read_gguf, write_gguf
from lorahub.adapters.reader import read_adapter
from lorahub.errors import InvalidGguf


def read(raw: bytes) -> GgufHeader:
    return read_gguf(lambda start, stop: raw[start:stop], size=len(raw))


def written_by_llama_cpp(path: Path, *, alpha: float = 8.0, rank: int = 4) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    writer.add_array("adapter.alora.words", ["one", "two"])
    writer.add_array("tokens", list(range(3000)))
    random = np.random.default_rng(0)
    for layer in range(2):
        name = f"blk.{layer}.attn_q.weight"
        writer.add_tensor(f"{name}.lora_a", random.standard_normal((rank, 16), np.float32))
        writer.add_tensor(f"{name}.lora_b", random.standard_normal((16, rank)).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_of_llama_cpp_is_read(tmp_path: Path) -> None:
    path = written_by_llama_cpp(tmp_path / "adapter.gguf")
    header = read(path.read_bytes())
    theirs = gguf.GGUFReader(path)
    assert [(t.name, t.ggml_type, t.shape) for t in header.tensors] == [
        (t.name, t.tensor_type.name, tuple(int(n) for n in reversed(t.shape))) for t in theirs.tensors
    ]
    assert [header.data_start + t.start for t in header.tensors] == [int(t.data_offset) for t in theirs.tensors]
    assert header.metadata["adapter.lora.alpha"] == 8.0
    assert header.metadata["adapter.alora.words"] == ["one", "two"]
    assert header.metadata["tokens"] == SkippedArray(3000)


def test_an_adapter_of_llama_cpp_has_its_modules_ranks_and_scales(tmp_path: Path) -> None:
    written_by_llama_cpp(tmp_path / "adapter.gguf", alpha=16.0)
    adapter = read_adapter(FolderFiles(tmp_path))
    assert (adapter.format, adapter.naming, adapter.architecture) == ("gguf", Naming.GGUF, "llama")
    assert [(u.module, u.shape, u.rank, u.scale) for u in adapter.updates] == [
        (f"blk.{layer}.attn_q", (16, 16), 4, 4.0) for layer in range(2)
    ]


def test_what_is_written_llama_cpp_reads(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    tensors = {
        "a": random.standard_normal((4, 6)).astype(np.float32),
        "b": random.standard_normal((3, 5)).astype(np.float16),
    }
    metadata = {"general.architecture": "llama", "text": "é", "flag": True, "count": 7, "scale": 0.5, "list": [1, 2]}
    with (tmp_path / "x.gguf").open("wb") as file:
        write_gguf(file, metadata, tensors.items())
    theirs = gguf.GGUFReader(tmp_path / "x.gguf")
    assert {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")} == metadata
    for tensor in theirs.tensors:
        assert np.array_equal(tensor.data, tensors[tensor.name])
    ours = read((tmp_path / "x.gguf").read_bytes())
    assert ours.metadata == metadata
    assert [(t.name, t.shape) for t in ours.tensors] == [("a", (4, 6)), ("b", (3, 5))]


# --- hostile ----------------------------------------------------------------------------------------------------------


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def made(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    pairs: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    **counts: int,
) -> bytes:
    head = magic + struct.pack("<IQQ", version, counts.get("tensors_", len(tensors)), counts.get("keys", len(pairs)))
    body = head + b"".join(pairs) + b"".join(tensors)
    return body + b"\0" * (-len(body) % 32) + b"\0" * 256


def pair(key: str | bytes = "k", kind: int = 4, raw: bytes = b"\1\0\0\0") -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def tensor(name: str = "w", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)


ATTACKS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "file-truncated"),
    "other magic": (made(magic=b"GGML"), "not-gguf"),
    "version 1": (made(version=1), "version-unknown"),
    "big endian": (made(version=0x03000000), "version-unknown"),
    "2^60 tensors": (made(tensors_=1 << 60), "too-many-tensors"),
    "2^60 keys": (made(keys=1 << 60), "too-many-keys"),
    "text beyond the file": (made(pairs=(struct.pack("<Q", 400) + b"k" * 4,)), "file-truncated"),
    "text of 2^62 bytes": (made(pairs=(struct.pack("<Q", 1 << 62),)), "string-too-long"),
    "key not UTF-8": (made(pairs=(pair(b"\xff\xfe"),)), "not-text"),
    "key twice": (made(pairs=(pair("k"), pair("k"))), "key-twice"),
    "unknown value type": (made(pairs=(pair(kind=99),)), "type-unknown"),
    "list of lists": (made(pairs=(pair(kind=9, raw=struct.pack("<IQ", 9, 1)),)), "array-nested"),
    "list of 2^50 numbers": (made(pairs=(pair(kind=9, raw=struct.pack("<IQ", 4, 1 << 50)),)), "file-truncated"),
    "list of 2^50 texts": (made(pairs=(pair(kind=9, raw=struct.pack("<IQ", 8, 1 << 50)),)), "header-too-large"),
    "nine dimensions": (made(tensors=(tensor(shape=(1,) * 9),)), "too-many-dimensions"),
    "dimension of 2^40": (made(tensors=(tensor(shape=(1 << 40,)),)), "dimension-too-large"),
    "dimension of 0": (made(tensors=(tensor(shape=(0,)),)), "dimension-too-large"),
    "unknown tensor type": (made(tensors=(tensor(kind=77),)), "tensor-type-unknown"),
    "half a block": (made(tensors=(tensor(shape=(33,), kind=8),)), "block-misaligned"),
    "odd alignment": (made(pairs=(pair("general.alignment", raw=struct.pack("<I", 33)),)), "alignment-odd"),
    "alignment of 0": (made(pairs=(pair("general.alignment", raw=struct.pack("<I", 0)),)), "alignment-odd"),
    "odd offset": (made(tensors=(tensor(offset=7),)), "offset-misaligned"),
    "overlap": (made(tensors=(tensor("a", (16,)), tensor("b", (16,), offset=32))), "overlap"),
    "beyond the file": (made(tensors=(tensor(shape=(1 << 20,)),)), "beyond-file"),
    "name twice": (made(tensors=(tensor("a"), tensor("a", offset=32))), "name-twice"),
    "empty name": (made(tensors=(tensor(""),)), "name-too-long"),
    "name turned round": (made(tensors=(tensor("\u202ew"),)), "name-too-long"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_is_refused_by_its_rule(name: str) -> None:
    raw, rule = ATTACKS[name]
    with pytest.raises(InvalidGguf) as refused:
        read(raw)
    assert refused.value.facts["rule"] == rule
    assert rule in RULES


def test_the_block_table_is_llama_cpps() -> None:
    theirs = {kind.name: (kind.value, *sizes) for kind, sizes in gguf.constants.GGML_QUANT_SIZES.items()}
    assert theirs == BLOCKS


def test_a_quantised_tensor_without_dimensions_is_refused() -> None:
    with pytest.raises(InvalidGguf):
        read(made(tensors=(tensor(shape=(), kind=8),)))


def test_no_mutation_raises_anything_else(tmp_path: Path) -> None:
    good = bytearray(written_by_llama_cpp(tmp_path / "adapter.gguf").read_bytes())
    random = np.random.default_rng(7)
    changes: list[Callable[[bytearray], Any]] = [
        lambda raw: raw.__setitem__(int(random.integers(len(raw))), int(random.integers(256))),
        lambda raw: raw.__delitem__(slice(*sorted(random.integers(len(raw), size=2).tolist()))),
        lambda raw: raw.__setitem__(slice(*([int(random.integers(300))] * 2)), random.bytes(8)),
    ]
    refused = 0
    for number in range(20_000):
        raw = bytearray(good[:600] if number % 3 else good)
        changes[number % len(changes)](raw)
        try:
            read(bytes(raw))
        except InvalidGguf:
            refused += 1
    assert refused > 4000
