"""SGLang's LoRAConfig and LoRAAdapter, from its wheel, and the stacked factors taken apart again."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from stubs import Stubs

_OWN = ("lora", "lora_config", "lora_manager", "utils")
sys.meta_path.insert(0, Stubs("sglang", [f"sglang.srt.lora.{name}" for name in _OWN]))

import factors
import torch
from language_model import language_config, open_base
from safetensors.torch import load_file
from sglang.srt.lora.lora import LoRAAdapter
from sglang.srt.lora.lora_config import LoRAConfig
from sglang.srt.lora.lora_manager import LoRAManager
from sglang.srt.lora.utils import get_normalized_target_modules
from task import Case, NotRun, each

_STACKED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


class _Files:
    """In place of the loader of models, which reads a folder's tensors in their order."""

    def __init__(self, *_: Any) -> None:
        """As it is called there."""

    def _get_weights_iterator(self, folder: str) -> Iterator[tuple[str, torch.Tensor]]:
        yield from sorted(load_file(Path(folder) / "adapter_model.safetensors").items())

    @staticmethod
    def Source(path: str, **_: Any) -> str:  # noqa: N802 SGLang's name
        return path


def _layer_number(name: str) -> int | None:
    """`sglang.srt.layers.utils.get_layer_id`."""
    found = [part for before, part in zip(name.split("."), name.split(".")[1:], strict=False) if before == "layers"]
    return int(found[0]) if found else None


loading = sys.modules[LoRAAdapter.__module__]
loading.DefaultModelLoader = _Files
loading.get_layer_id = _layer_number


def answer(case: Case) -> Iterable[float]:
    config = language_config(case["base"])
    is_plain = config["architectures"][0].endswith("ForCausalLM") and "num_experts_per_tok" not in config
    if not is_plain or config["model_type"] in ("gpt2", "stablelm"):
        raise NotRun(f"{config['model_type']}: its names and its experts aren't in the code that is read")
    told = LoRAConfig(case["adapter"])
    manager = SimpleNamespace(
        attn_dp_enabled=False, lora_refs={}, configs={"one": told}, num_pinned_loras=0, max_loras_per_batch=8
    )
    reference = SimpleNamespace(lora_name="one", lora_path=case["adapter"], pinned=False, lora_id="one")
    LoRAManager.validate_new_adapter(manager, told, reference)
    targets = _targets(told.target_modules)
    base = SimpleNamespace(**config)
    adapter = LoRAAdapter("one", told, base, None, None)
    adapter.initialize_weights()
    weights = {name: one for layer in adapter.layers for name, one in layer.weights.items()} | adapter.embedding_layers
    model = open_base(case["base"])
    sizes = {name: part.weight.shape[0] for name, part in model.named_modules() if hasattr(part, "weight")}
    return factors.answer(case["base"], dict(_taken(weights, adapter.scaling, told.r, sizes, targets)), case["prompt"])


def _targets(targets: Any) -> set[str]:
    """What `LoRAManager.init_lora_shapes` makes of `target_modules`."""
    if isinstance(targets, str):
        if targets in ("all-linear", "all"):
            return {"all"}
        raise ValueError(f"SGLang does not recognize target_modules='{targets}'.")
    return set(get_normalized_target_modules(targets))


def _taken(
    weights: dict[str, torch.Tensor], scale: float, rank: int, sizes: dict[str, int], targets: set[str]
) -> Iterator[tuple[str, tuple[torch.Tensor, torch.Tensor, float]]]:
    """As its kernels use them: (pieces · r, in) and the rows of all pieces; one scale for all."""
    for name, down in weights.items():
        ending = ".lora_A.weight" if name.endswith(".lora_A.weight") else ".lora_embedding_A"
        if not name.endswith(ending):
            continue
        up = weights[name.replace("_A", "_B")]
        module = _found(name.removesuffix(ending), sizes)
        owner, _, leaf = module.rpartition(".")
        if targets != {"all"} and leaf not in targets:
            continue  # a warning, unless it is told to be strict
        if leaf not in _STACKED or f"{module}" in sizes:
            if down.shape[0] != rank and leaf not in _STACKED:
                raise ValueError(f"{module} has rank {down.shape[0]}, the adapter {rank}")
            yield module, (down[:rank], up, scale)
            continue
        pieces = [f"{owner}.{piece}" for piece in _STACKED[leaf]]
        heights = [sizes[piece] for piece in pieces]
        if down.shape[0] != rank * len(pieces):
            raise ValueError(f"{module} has rank {down.shape[0] / len(pieces)}, the adapter {rank}")
        for piece, one, two in zip(pieces, down.split(rank), up.split(heights), strict=True):
            yield piece, (one, two, scale)


def _found(name: str, sizes: dict[str, int]) -> str:
    """Its memory pool goes by the layer's number and the last name."""
    number, leaf = _layer_number(name), name.rpartition(".")[2]
    kinds = (leaf, *_STACKED.get(leaf, ()))
    places = [one for one in sizes if one.rpartition(".")[2] in kinds and _layer_number(one) == number]
    return f"{places[0].rpartition('.')[0]}.{leaf}".removeprefix(".") if places else name


each(answer)
