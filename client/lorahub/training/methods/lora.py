"""LoRA by PEFT: W·x + s·B·A·x with B = 0 at the start (arXiv 2106.09685), and its relatives.

rsLoRA (2312.03732) and DoRA (2402.09353) are PEFT's. LoRA+ (2402.12354) is a larger learning rate for B. PiSSA
(2404.02948) and OLoRA (2406.01775) begin with A₀ and B₀ taken from W and train on W − s·B₀·A₀; as that is another
base, what is kept is a plain LoRA of twice the rank, s·(B·A − B₀·A₀), which fits the base as it was.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorahub.adapters.reader import CONFIG
from lorahub.errors import InvalidUsage
from lorahub.training.config import TrainConfig
from lorahub.training.methods.trained import Named, is_conv1d, is_linear, save_peft, trained, write

_QUERIES_AND_VALUES = ("q_proj", "v_proj", "query", "value", "c_attn", "query_key_value", "qkv_proj", "Wqkv")
"""What the projections are called, or the one that holds both, across the models of transformers."""
_FROM_BASE = ("pissa", "olora")
_ROUTERS = frozenset("router modality_router shared_expert_gate moe_gate gating_network".split())
_GATES = frozenset("gate layer classifier".split())
_MIXTURES = frozenset("mlp moe block_sparse_moe feed_forward ffn mixture".split())
"""Modules whose gate chooses experts."""
_MOST_EXPERTS = 1024
_PATTERN = "re:"
_MAMBAS = frozenset("falcon_h1 falcon_mamba mamba mamba2 nemotron_h".split())  # as PEFT lists them
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


class LoraMethod:
    name = "lora"
    notes: Sequence[str] = ()
    is_slow_to_save = False

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self.new_tokens: Sequence[int] = ()
        """Rows of the embedding and of the head that are trained too."""
        self._start: dict[str, Tensor] = {}
        """A₀ and B₀ by their names in the file, where they were taken from the base."""

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"converted_from": self._config.init} if self._start else {}

    def attach(self, model: PreTrainedModel) -> nn.Module:
        is_turned = any(is_conv1d(module) for module in model.modules())
        if is_turned and self._config.init == "olora":
            raise InvalidUsage("PEFT's OLoRA mistakes inputs for outputs in GPT-2's layers", hint="use --init pissa")
        try:
            adapted = peft.get_peft_model(model, self.peft_config(model), autocast_adapter_dtype=False)
        except (ValueError, TypeError) as error:
            raise InvalidUsage(
                f"PEFT can't put a LoRA there: {str(error).partition(chr(10))[0][:300]}",
                hint="name modules of this model: --targets q_proj,v_proj, or --targets all-linear",
            ) from None
        if self._init(model) in _FROM_BASE:
            state = peft.get_peft_model_state_dict(adapted)
            self._start = {name: value.clone() for name, value in state.items() if name.endswith((_DOWN, _UP))}
        return adapted

    def peft_config(self, model: PreTrainedModel) -> peft.LoraConfig:
        wanted = self._config
        return peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=wanted.rank,
            lora_alpha=wanted.scaling_alpha,
            lora_dropout=wanted.dropout,
            target_modules=_targets(model, wanted.targets),
            use_rslora=wanted.rslora,
            use_dora=wanted.dora,
            init_lora_weights=self._init(model),
            fan_in_fan_out=any(is_conv1d(module) for module in model.modules()),
            modules_to_save=list(wanted.save_modules) or None,
            trainable_token_indices=self._rows(model) or None,
        )

    def _rows(self, model: Any) -> dict[str, list[int]]:
        """By the last names of the embedding and of a head with weights of its own."""
        if not self.new_tokens:
            return {}
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        places = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
        names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
        return {names[id(place)]: list(self.new_tokens) for place in places}

    def _init(self, model: PreTrainedModel) -> Any:
        """Shapes alone have no singular values."""
        is_shape = next(model.parameters()).is_meta and self._config.init in _FROM_BASE
        return True if is_shape or self._config.init == "default" else self._config.init

    def groups(self, model: nn.Module) -> list[tuple[Named, float]]:
        ratio, every = self._config.lora_plus, trained(model)
        if ratio is None:
            return [(every, 1.0)]
        ups = [pair for pair in every if ".lora_B." in pair[0]]
        return [([pair for pair in every if ".lora_B." not in pair[0]], 1.0), (ups, ratio)]

    def save(self, model: nn.Module, folder: Path) -> None:
        save_peft(model, folder)
        if self._start:
            config = json.loads((folder / CONFIG).read_bytes()) | self._plain()
            write(folder, config, self._doubled(peft.get_peft_model_state_dict(model)))

    # --- PiSSA and OLoRA as plain LoRA --------------------------------------------------------------------------------

    def _plain(self) -> dict[str, Any]:
        """The settings with twice the rank and the scale as it was; rsLoRA's √ would be another one."""
        wanted = self._config
        scale = wanted.scaling_alpha / (wanted.rank**0.5 if wanted.rslora else wanted.rank)
        targets = {name.removeprefix("base_model.model.").removesuffix(_DOWN) for name in self._start}
        return {
            "init_lora_weights": True,
            "r": 2 * wanted.rank,
            "lora_alpha": 2 * wanted.rank * scale if wanted.rslora else 2 * wanted.scaling_alpha,
            "use_rslora": False,
            "target_modules": sorted(name for name in targets if not name.endswith(_UP)),
            "inference_mode": True,
        }

    def _doubled(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """[A; A₀] and [B, −B₀]; magnitudes as they are."""
        made = dict(state)
        for name, start in self._start.items():
            both = (state[name], start) if name.endswith(_DOWN) else (state[name], -start)
            made[name] = torch.cat(both, dim=0 if name.endswith(_DOWN) else 1)
        return made


def _all_linear(model: PreTrainedModel) -> str | list[str]:
    """Every linear layer but the head, routers of mixtures, and what PEFT can't adapt; by their last names, as far as
    these are nobody else's.

    A router that changes sends tokens to experts that never learnt them, and runtimes take no LoRA on it.
    """
    asked: Any = model
    head = asked.get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if is_linear(module) and module is not head}
    left = {name for name, module in linear.items() if is_router(name, module) or _is_refused(model, name)}
    if not left:
        return "all-linear"
    kept = linear.keys() - left
    taken = {name.rpartition(".")[2] for name, _ in model.named_modules() if name not in kept}
    return sorted({name if (leaf := name.rpartition(".")[2]) in taken else leaf for name in kept})


def is_router(name: str, module: nn.Module) -> bool:
    """Whether a linear layer of this name weighs the experts of a mixture, or a shared one."""
    *path, leaf = name.split(".")
    weight: Any = module.weight
    few = min(weight.shape) <= _MOST_EXPERTS
    return few and (leaf in _ROUTERS or (leaf in _GATES and bool(path) and path[-1] in _ROUTERS | _MIXTURES))


def _is_refused(model: PreTrainedModel, name: str) -> bool:
    """PEFT refuses what a fused kernel of Mamba reads behind its back."""
    return model.config.model_type in _MAMBAS and name.rpartition(".")[2] in ("out_proj", "conv1d")


def _targets(model: PreTrainedModel, targets: tuple[str, ...]) -> str | list[str]:
    if targets == ("all-linear",):
        return _all_linear(model)
    if len(targets) == 1 and targets[0].startswith(_PATTERN):
        return targets[0].removeprefix(_PATTERN)
    if targets != ("q,v",):
        return list(targets)
    leaves = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    found = [name for name in _QUERIES_AND_VALUES if name in leaves]
    if not found:
        raise InvalidUsage(
            "this model names its query and value projections in no way known here", hint="use --targets"
        )
    return found
