"""Writes client/lorahub/adapters/names/gguf_names.json: which of a model's weights a tensor of a GGUF file is.

    python tools/gguf_names.py [--holes] [--check]

For each architecture of llama.cpp that transformers has a class for, the class is made small and saved: its names are
those on disk. llama.cpp's own table (`gguf.tensor_mapping`) says what each is called in a GGUF file. `--holes` lists
the weights that the table has no name for; `--check` writes nothing, and fails where the file says something else.
"""

import json
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import transformers
from lorahub.adapters.base_model import read_base
from lorahub.adapters.files import FolderFiles

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from sweep import tiny

TABLE = Path(__file__).parents[1] / "client/lorahub/adapters/names/gguf_names.json"
_CLASSES = {
    "llama": ["LlamaForCausalLM", "MixtralForCausalLM"],
    "llama-embed": ["LlamaForCausalLM"],
    "llama4": ["Llama4ForCausalLM"],
    "gpt2": ["GPT2LMHeadModel"],
    "starcoder": ["GPTBigCodeForCausalLM"],
    "phi2": ["PhiForCausalLM"],
    "bert": ["BertModel"],
    "command-r": ["CohereForCausalLM"],
    "deepseek2": ["DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM"],
    "gemma3": ["Gemma3ForCausalLM"],
    "gemma3n": ["Gemma3nForCausalLM"],
    "gemma4": ["Gemma4ForCausalLM"],
    "gemma-embedding": ["Gemma3TextModel"],
    "glm-dsa": ["GlmMoeDsaForCausalLM"],
    "granitehybrid": ["GraniteMoeHybridForCausalLM"],
    "granitemoe": ["GraniteMoeForCausalLM"],
    "hunyuan-dense": ["HunYuanDenseV1ForCausalLM"],
    "hunyuan-moe": ["HunYuanMoEV1ForCausalLM"],
    "nemotron_h_moe": ["NemotronHForCausalLM"],
    "qwen2vl": ["Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"],
    "t5": ["T5ForConditionalGeneration"],
    "t5encoder": ["T5EncoderModel"],
}
"""Architecture -> classes, where the two names differ, or several classes have one; of equals the first is taken."""
_TURNED = {"gpt2": ("attn_qkv", "attn_output", "ffn_up", "ffn_down")}
"""What transformers stores (in, out), and a GGUF file as everywhere (out, in)."""
_JOINED = {
    "mlp.experts.gate_up_proj": ("ffn_gate_exps.weight", "ffn_up_exps.weight"),
    "mlp.experts.gate_up_proj_bias": ("ffn_gate_exps.bias", "ffn_up_exps.bias"),
    "block_sparse_moe.input_linear.weight": ("ffn_gate_exps.weight", "ffn_up_exps.weight"),
    "shared_mlp.input_linear.weight": ("ffn_gate_shexp.weight", "ffn_up_shexp.weight"),
}
"""What transformers stores as one tensor, gate and up, and a GGUF file as two (llama.cpp's convert_hf_to_gguf)."""
_SAID = (
    ("e_score_correction_bias", "e_score_correction.bias"),
    ("dt_bias", "dt_proj.bias"),
    ("down_proj_bias", "down_proj.bias"),
    ("language_model.", ""),
)
"""What llama.cpp's converter renames before it looks into its table."""
_EXPERT = re.compile(r"\bexperts\.(\d+)\.")
_NUMBER = re.compile(r"\.(\d+)\.")


def table() -> dict[str, Any]:
    made = {name: [variant for owner in owners if (variant := _variant(name, owner))] for name, owners in _named()}
    versions = {package: version(package) for package in ("gguf", "transformers")}
    return {"made_by": versions, "architectures": {name: found for name, found in made.items() if found}}


def _named() -> Iterator[tuple[str, list[str]]]:
    """(llama.cpp's name of an architecture, transformers' classes)."""
    kinds: dict[str, list[str]] = {}
    for name, kind in tiny.classes().items():
        kinds.setdefault(_plain(kind), []).append(name)
    for name in sorted(gguf.MODEL_ARCH_NAMES.values()):
        owners = _CLASSES.get(name) or kinds.get(_plain(name))
        if owners:
            yield name, owners if name in _CLASSES else owners[:1]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]", "", name)


def _variant(architecture: str, owner: str) -> dict[str, Any] | None:
    """How the weights of one class are called; None where it can't be made, or most of them have no name."""
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    mapping = gguf.get_tensor_name_map(number, 64)
    try:
        model = tiny.make(owner)
    except Exception as error:  # noqa: BLE001 (whatever a class asks for)
        print(f"{architecture}: {owner} can't be made: {error!r:.100}", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = read_base(FolderFiles(Path(folder))).tensors
    made: dict[str, Any] = {"names": {}, "joined": {}, "turned": [], "ones": {}}
    holes = []
    for name, tensor in tensors.items():
        ours, theirs = _numberless(name, expert=True), _numberless(_theirs(name, mapping) or "")
        if parts := next((found for ending, found in _JOINED.items() if name.endswith(f".{ending}")), None):
            made["joined"][ours] = [f"blk.{{}}.{part}" for part in parts]
            made["turned"] += [ours] * (len(tensor.shape) == 3 and tensor.shape[2] > tensor.shape[1])
        elif not theirs:
            holes.append(ours)
        elif made["names"].setdefault(theirs, ours) == ours:
            made["turned"] += [ours] * _is_turned(architecture, theirs, tensor.shape)
            made["ones"] |= {ours: tensor.shape.index(1)} if 1 in tensor.shape[:-1] else {}
    if "--holes" in sys.argv and holes:
        print(f"{architecture} {owner}: {len(holes)} of {len(tensors)}: {sorted(set(holes))[:12]}", file=sys.stderr)
    if "token_embd.weight" not in made["names"]:
        return None
    kept = {
        key: dict(sorted(value.items())) if isinstance(value, dict) else sorted(set(value))
        for key, value in made.items()
    }
    return {
        "model_type": model.config.model_type,
        "class": owner,
        **{key: value for key, value in kept.items() if value},
    }


def _is_turned(architecture: str, theirs: str, shape: tuple[int, ...]) -> bool:
    """Whether the class has it (in, out): by its kind, or since a small one is wider inside than outside."""
    leaf = theirs.removesuffix(".weight").rpartition(".")[2]
    is_stack = leaf == "ffn_down_exps" and len(shape) == 3 and shape[1] > shape[2]
    return is_stack or (leaf in _TURNED.get(architecture, ()) and theirs.endswith(".weight"))


def _theirs(name: str, mapping: gguf.TensorNameMap) -> str | None:
    """llama.cpp's name of a weight; it knows some of them without the name of the model's part."""
    name = _EXPERT.sub("experts.", name)
    for ours, said in _SAID:
        name = name.replace(ours, said)
    for known in (name, *(name.split(".", count)[count] for count in (1, 2) if name.count(".") >= count)):
        found = mapping.get_name(known, try_suffixes=(".weight", ".bias"))
        if found is not None:
            return found if found.endswith((".weight", ".bias")) or not known.endswith(".weight") else f"{found}.weight"
    return None


def _numberless(name: str, *, expert: bool = False) -> str:
    """With `{}` for the layer, and `{expert}` for the expert."""
    name = _EXPERT.sub("experts.{expert}." if expert else "experts.", name)
    return _NUMBER.sub(".{}.", name, count=1)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    transformers.logging.set_verbosity_error()
    written = json.dumps(table(), indent=1) + "\n"
    if "--check" in sys.argv:
        sys.exit(
            None if written == TABLE.read_text() else f"{TABLE} is not what the installed packages say: make names"
        )
    TABLE.write_text(written)
