"""The same model as people have it: in a GGUF file, and quantised in each of the ways that are read.

Names and forms are the makers': llama.cpp's table (`gguf`), and what bitsandbytes 0.50, compressed-tensors 0.20,
transformers' FP8 layer, AutoGPTQ and AutoAWQ save, without their arithmetic: the numbers are zeros.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

Stored = Mapping[str, tuple[str, tuple[int, ...], bytes | None]]
"""Tensor -> (dtype, shape, bytes; None for zeros)."""

_EXPERT = re.compile(r"experts\.(\d+)\.")


# --- GGUF -------------------------------------------------------------------------------------------------------------


def write_gguf(base: Path, path: Path, architecture: str, *, kind: str = "F32", shards: int = 1) -> Path:
    """As llama.cpp's convert_hf_to_gguf: experts stacked, GPT-2's matrices turned. Returns the first file."""
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, 8)
    config = json.loads((base / "config.json").read_text())
    tensors: dict[str, np.ndarray] = {}
    stacks: dict[str, dict[int, np.ndarray]] = {}
    for name, array in load_file(base / "model.safetensors").items():
        expert = _EXPERT.search(name)
        plain = name if name.startswith(("model.", "lm_head", "transformer.")) else f"transformer.{name}"
        theirs = names.get_name(_EXPERT.sub("experts.", plain), try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        if architecture == "gpt2" and theirs.endswith(
            ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
        ):
            array = array.T  # noqa: PLW2901 (as it is written)
        if expert:
            stacks.setdefault(theirs, {})[int(expert[1])] = array
        else:
            tensors[theirs] = array
    tensors |= {name: np.stack([found[n] for n in sorted(found)]) for name, found in stacks.items()}
    tensors["rope_freqs.weight"] = np.ones(4, np.float32)
    return _write(path, architecture, config, tensors, kind=kind, shards=shards)


def _write(
    path: Path,
    architecture: str,
    config: Mapping[str, int],
    tensors: Mapping[str, np.ndarray],
    *,
    kind: str,
    shards: int,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = list(tensors.items())
    paths = (
        [path]
        if shards == 1
        else [path.with_name(f"{path.stem}-{number:05}-of-{shards:05}.gguf") for number in range(1, shards + 1)]
    )
    for number, place in enumerate(paths):
        writer = gguf.GGUFWriter(place, architecture)
        writer.add_type("model")
        writer.add_block_count(config.get("num_hidden_layers", config.get("n_layer", 0)))
        writer.add_embedding_length(config.get("hidden_size", config.get("n_embd", 0)))
        writer.add_head_count(config.get("num_attention_heads", config.get("n_head", 0)))
        if "num_key_value_heads" in config:
            writer.add_head_count_kv(config["num_key_value_heads"])
        if config.get("head_dim"):
            writer.add_key_length(config["head_dim"])
        writer.add_token_list([f"t{token}" for token in range(2000)])
        for name, array in listed[number::shards]:
            quantised = kind != "F32" and array.ndim > 1 and array.shape[-1] % 32 == 0
            if quantised:
                packed = gguf.quants.quantize(np.ascontiguousarray(array, np.float32), gguf.GGMLQuantizationType[kind])
                writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType[kind])
            else:
                writer.add_tensor(name, np.ascontiguousarray(array, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths[0]


# --- quantised checkpoints --------------------------------------------------------------------------------------------


def _gptq(name: str, out: int, width: int) -> Stored:
    module = name.removesuffix(".weight")
    return {
        f"{module}.qweight": ("I32", (width // 8, out), None),
        f"{module}.qzeros": ("I32", (width // 8, out // 8), None),
        f"{module}.scales": ("F16", (width // 8, out), None),
        f"{module}.g_idx": ("I32", (width,), None),
    }


def _gptq_without_order(name: str, out: int, width: int) -> Stored:
    return {key: value for key, value in _gptq(name, out, width).items() if not key.endswith("g_idx")}


def _awq(name: str, out: int, width: int) -> Stored:
    module = name.removesuffix(".weight")
    return {
        f"{module}.qweight": ("I32", (width, out // 8), None),
        f"{module}.qzeros": ("I32", (width // 8, out // 8), None),
        f"{module}.scales": ("F16", (width // 8, out), None),
    }


def _bitsandbytes(kind: str, name: str, out: int, width: int) -> Stored:
    state = json.dumps({"quant_type": kind, "blocksize": 64, "dtype": "float16", "shape": [out, width]}).encode()
    return {
        name: ("U8", (out * width // 2, 1), None),
        f"{name}.absmax": ("U8", (-(-out * width // 64),), None),
        f"{name}.quant_map": ("F32", (16,), None),
        f"{name}.nested_absmax": ("F32", (1,), None),
        f"{name}.nested_quant_map": ("F32", (256,), None),
        f"{name}.quant_state.bitsandbytes__{kind}": ("U8", (len(state),), state),
    }


def _eight_bits(name: str, out: int, width: int) -> Stored:
    module = name.removesuffix(".weight")
    return {
        name: ("I8", (out, width), None),
        f"{module}.SCB": ("F32", (out,), None),
        f"{module}.weight_format": ("U8", (), None),
    }


def _fp8(name: str, out: int, width: int) -> Stored:
    return {name: ("F8_E4M3", (out, width), None), f"{name}_scale_inv": ("F32", (1, 1), None)}


def _packed(name: str, out: int, width: int) -> Stored:
    return {
        f"{name}_packed": ("I32", (out, -(-width // 8)), None),
        f"{name}_scale": ("BF16", (out, 1), None),
        f"{name}_shape": ("I64", (2,), np.array([out, width], np.int64).tobytes()),
    }


def _nvfp4(name: str, out: int, width: int) -> Stored:
    return {
        f"{name}_packed": ("U8", (out, width // 2), None),
        f"{name}_scale": ("F8_E4M3", (out, -(-width // 16)), None),
        f"{name}_global_scale": ("F32", (1,), None),
    }


WAYS: Mapping[str, tuple[Callable[[str, int, int], Stored], Mapping[str, object]]] = {
    "gptq": (_gptq, {"quant_method": "gptq", "bits": 4}),
    "gptq without g_idx": (_gptq_without_order, {"quant_method": "gptq", "bits": 4}),
    "awq": (_awq, {"quant_method": "awq", "bits": 4, "version": "gemm"}),
    "nf4": (lambda *at: _bitsandbytes("nf4", *at), {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "fp4": (lambda *at: _bitsandbytes("fp4", *at), {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "int8": (_eight_bits, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "fp8": (_fp8, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    "pack-quantized": (_packed, {"quant_method": "compressed-tensors", "format": "pack-quantized"}),
    "nvfp4": (_nvfp4, {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}),
}
"""Way -> (what a weight of (out, in) is stored as, quantization_config)."""


def write_quantised(base: Path, folder: Path, way: str) -> Path:
    """The base with each of its projections packed."""
    pack, said = WAYS[way]
    folder.mkdir(parents=True)
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": said}))
    tensors: dict[str, tuple[str, tuple[int, ...], bytes | None]] = {}
    for name, array in load_file(base / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            tensors |= pack(name, *array.shape)
        else:
            tensors[name] = ("F32", array.shape, array.tobytes())
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    return folder


def safetensors(tensors: Stored) -> bytes:
    bits = {"F16": 16, "BF16": 16, "F32": 32, "I32": 32, "I64": 64}
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        size = int(np.prod(shape, dtype=np.int64)) * bits.get(dtype, 8) // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + size]}
        data += bytes(size) if raw is None else raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data
