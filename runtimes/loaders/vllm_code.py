"""vLLM's PEFTHelper and LoRAModel, from its wheel; which modules a model has for LoRA is read from its class there."""

import ast
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from stubs import Stubs

_OWN = ("peft_helper", "lora_model", "lora_weights", "utils")
sys.meta_path.insert(0, Stubs("vllm", [f"vllm.lora.{name}" for name in _OWN]))

import factors
import torch
from language_model import language_config, open_base
from task import Case, NotRun, each
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.peft_helper import __file__ as helper

_MOST_RANK = 512
_MODELS = Path(helper).parent.parent / "model_executor" / "models"
_NO_LORA = "{} does not support LoRA yet."
"""What `vllm.lora.model_manager` says."""


loading = sys.modules[LoRAModel.__module__]
loading.PIN_MEMORY = False
loading.is_pin_memory_available = bool


def answer(case: Case) -> Iterable[float]:
    config = language_config(case["base"])
    architecture = config["architectures"][0]
    bases, edges, is_known = _model(architecture)
    if not is_known or "text_config" in config or "num_experts_per_tok" in config:
        raise NotRun(f"{architecture}: its names and its experts aren't in the code that is read")
    if "SupportsLoRA" not in bases:
        raise RuntimeError(_NO_LORA.format(architecture))
    helper = PEFTHelper.from_local_dir(case["adapter"], config.get("max_position_embeddings"))
    helper.validate_legal(SimpleNamespace(max_lora_rank=_MOST_RANK, bias_enabled=False))
    model = open_base(case["base"])
    expected = (factors.linear_names(model) - {"lm_head"}) | set(edges)
    made = LoRAModel.from_local_checkpoint(
        case["adapter"],
        expected,
        peft_helper=helper,
        lora_model_id=1,
        device="cpu",
        dtype=torch.float32,
        **_vocabulary(config["vocab_size"]),
    )
    return factors.answer(case["base"], {name: _taken(one) for name, one in made.loras.items()}, case["prompt"])


def _vocabulary(size: int) -> dict[str, Any]:
    """Older ones are told otherwise how large the vocabulary may be."""
    names = LoRAModel.from_local_checkpoint.__func__.__code__.co_varnames
    return {key: size for key in ("model_vocab_size", "target_embedding_padding") if key in names}


def _taken(one: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Older ones keep the factors the other way round."""
    down, up = one.lora_a, one.lora_b
    if down.shape[0] != up.shape[1]:
        down, up = down.T, up.T
    return down, up, float(one.scaling)


@cache
def _model(architecture: str) -> tuple[set[str], list[str], bool]:
    """The names of its base classes, of the edges that take LoRA, and whether it is there."""
    for path in _MODELS.glob("*.py"):
        text = path.read_text()
        if f"class {architecture}(".lower() not in text.lower():
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.name.lower() == architecture.lower():
                bases = {ast.unparse(one).rpartition(".")[2] for one in node.bases}
                inherited = [_model(name) for name in bases if name.endswith("ForCausalLM")]
                edges = [name for statement in node.body for name in _edges(statement)]
                edges = edges or [name for _, more, _ in inherited for name in more]
                return bases.union(*(more for more, _, _ in inherited)), edges, True
    return set(), [], False


def _edges(statement: ast.stmt) -> list[str]:
    is_named = isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "embedding_modules"
    value = getattr(statement, "value", None)
    if not is_named or not isinstance(value, ast.Dict):
        return []
    return [key.value for key in value.keys if isinstance(key, ast.Constant)]


each(answer)
