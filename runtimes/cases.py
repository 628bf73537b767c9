"""The adapters, each made by PEFT or diffusers: methods, options and spellings that runtimes differ by.

An adapter is trained for nothing, but every factor is filled with noise, so that no update is zero.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from runtimes import bases

_QV = ["q_proj", "v_proj"]
_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

Config = Callable[[], peft.PeftConfig]


@dataclass(frozen=True)
class Case:
    """An adapter of PEFT on one of `bases.TEXT`."""

    base: str
    config: Config
    prompt: tuple[int, ...] = bases.PROMPT
    tokens: int = bases.VOCABULARY
    """To which the base's vocabulary is resized first."""
    save: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    """Of its factors."""
    afterwards: Callable[[Path], None] = lambda _: None
    """What a person or another program does to the written folder."""


def lora(**settings: Any) -> Config:
    return lambda: peft.LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": _QV} | settings)


def other(kind: str, **settings: Any) -> Config:
    return lambda: getattr(peft, f"{kind}Config")(**settings)


def _renamed(old: str, new: str) -> Callable[[Path], None]:
    def rename(folder: Path) -> None:
        _rewrite(folder, lambda tensors: {name.replace(old, new): one for name, one in tensors.items()})

    return rename


def _without_settings(*names: str) -> Callable[[Path], None]:
    """As PEFT of years ago wrote it."""

    def drop(folder: Path) -> None:
        path = folder / "adapter_config.json"
        said = json.loads(path.read_bytes())
        path.write_text(json.dumps({key: value for key, value in said.items() if key not in names}, indent=2))

    return drop


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: one.contiguous() for name, one in change(load_file(path)).items()}, path, {"format": "pt"})


_RECENT = (
    "alora_invocation_tokens", "arrow_config", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "kasa_config", "layer_replication", "lora_bias", "lora_ga_config", "monteclora_config", "peft_version", "qalora_group_size",
    "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config", "megatron_core",
    "megatron_config", "loftq_config", "use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "auto_mapping",
)  # fmt: skip
_GROWN = bases.VOCABULARY + 8
_NEW_TOKENS = (*bases.PROMPT[:10], bases.VOCABULARY + 1, 12)
_EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
_GPT2 = {"fan_in_fan_out": True}

CASES: dict[str, Case] = {
    # where
    "lora": Case("llama", lora()),
    "lora-all-linear": Case("llama", lora(target_modules="all-linear")),
    "lora-q-only": Case("llama", lora(target_modules=["q_proj"])),
    "lora-k-only": Case("llama", lora(target_modules=["k_proj"])),
    "lora-o-only": Case("llama", lora(target_modules=["o_proj"])),
    "lora-gate-only": Case("llama", lora(target_modules=["gate_proj"])),
    "lora-mlp": Case("llama", lora(target_modules=["gate_proj", "up_proj", "down_proj"])),
    "lora-expression": Case("llama", lora(target_modules=r".*\.self_attn\.(q|v)_proj")),
    "lora-one-layer": Case("llama", lora(layers_to_transform=[1], layers_pattern="layers")),
    "lora-full-names": Case("llama", lora(target_modules=["model.layers.0.self_attn.q_proj", "v_proj"])),
    "lora-excluded": Case("llama", lora(exclude_modules=["model.layers.0.self_attn.q_proj"])),
    # how much
    "rank-1": Case("llama", lora(r=1)),
    "rank-24": Case("llama", lora(r=24)),
    "rank-64": Case("llama", lora(r=64)),
    "rank-128": Case("llama", lora(r=128)),
    "rank-640": Case("llama", lora(r=640, target_modules=["q_proj", "v_proj"])),
    "rslora": Case("llama", lora(use_rslora=True)),
    "rank-pattern": Case("llama", lora(rank_pattern={"v_proj": 4})),
    "alpha-pattern": Case("llama", lora(alpha_pattern={"v_proj": 5})),
    "patterns": Case("llama", lora(target_modules=_LINEAR, rank_pattern={"q_proj": 4, r"layers\.1\.self_attn\.v_proj": 12}, alpha_pattern={"down_proj": 3})),
    "rslora-patterns": Case("llama", lora(use_rslora=True, rank_pattern={"q_proj": 4})),
    "float16": Case("llama", lora(), dtype=torch.float16),
    "bfloat16": Case("llama", lora(), dtype=torch.bfloat16),
    "float64": Case("llama", lora(), dtype=torch.float64),
    "old-configuration": Case("llama", lora(), afterwards=_without_settings(*_RECENT)),
    "foreign-names": Case("llama", lora(), afterwards=_renamed("base_model.model.model.", "base_model.model.model.language_model.")),
    # with what beside it
    "dora": Case("llama", lora(use_dora=True)),
    "dora-all-linear": Case("llama", lora(use_dora=True, target_modules="all-linear")),
    "embedding": Case("llama", lora(target_modules=["q_proj", "v_proj", "embed_tokens"])),
    "head": Case("llama", lora(target_modules=["q_proj", "v_proj", "lm_head"])),
    "embedding-and-head": Case("llama", lora(target_modules=[*_QV, "embed_tokens", "lm_head"])),
    "tied-embedding": Case("llama-tied", lora(target_modules=[*_QV, "embed_tokens"])),
    "tied-head": Case("llama-tied", lora(target_modules=[*_QV, "lm_head"])),
    "tied-lora": Case("llama-tied", lora()),
    "saved-head": Case("llama", lora(modules_to_save=["lm_head"])),
    "saved-edges": Case("llama", lora(modules_to_save=["lm_head", "embed_tokens"])),
    "saved-norms": Case("llama", lora(modules_to_save=["input_layernorm"])),
    "grown-saved": Case("llama", lora(modules_to_save=["lm_head", "embed_tokens"]), _NEW_TOKENS, _GROWN),
    "grown-embedding": Case("llama", lora(target_modules=[*_QV, "embed_tokens", "lm_head"]), _NEW_TOKENS, _GROWN, {"save_embedding_layers": True}),
    "saved-copies": Case("llama", lora(target_modules=[*_QV, "embed_tokens"]), save={"save_embedding_layers": True}),
    "token-rows": Case("llama", lora(trainable_token_indices={"embed_tokens": [5, 8, 23]})),
    "token-rows-tied": Case("llama-tied", lora(trainable_token_indices={"embed_tokens": [5, 8, 23]})),
    "bias-none-there": Case("llama", lora(bias="all")),
    "bias-all": Case("qwen2", lora(bias="all")),
    "bias-lora-only": Case("qwen2", lora(bias="lora_only")),
    "up-bias": Case("llama", lora(lora_bias=True)),
    "replicated": Case("llama", lora(layer_replication=[[0, 2], [1, 2]])),
    "pissa": Case("llama", lora(init_lora_weights="pissa")),
    "olora": Case("llama", lora(init_lora_weights="olora")),
    "orthogonal": Case("llama", lora(init_lora_weights="orthogonal")),
    "gaussian": Case("llama", lora(init_lora_weights="gaussian")),
    "activated": Case("llama", lora(alora_invocation_tokens=[7, 8], task_type="CAUSAL_LM")),
    "quantisation-aware": Case("llama", lora(use_qalora=True, qalora_group_size=16)),
    "block-diagonal": Case("llama", lora(target_modules=["q_proj", "o_proj"], use_bdlora={"target_modules_bd_a": ["o_proj"], "target_modules_bd_b": ["q_proj"], "nblocks": 2})),
    "classifier": Case("llama-classifier", lora(task_type="SEQ_CLS")),
    # on what
    "mistral": Case("mistral", lora(target_modules="all-linear")),
    "qwen2": Case("qwen2", lora(target_modules="all-linear")),
    "qwen3": Case("qwen3", lora(target_modules="all-linear")),
    "gemma2": Case("gemma2", lora(target_modules="all-linear")),
    "phi3": Case("phi3", lora(target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"])),
    "stablelm": Case("stablelm", lora()),
    "gpt2-attention": Case("gpt2", lora(target_modules=["c_attn"], **_GPT2)),
    "gpt2": Case("gpt2", lora(target_modules=["c_attn", "c_proj", "c_fc"], **_GPT2)),
    "gpt2-dora": Case("gpt2", lora(target_modules=["c_attn"], use_dora=True, **_GPT2)),
    "gpt2-bias": Case("gpt2", lora(target_modules=["c_attn"], bias="lora_only", **_GPT2)),
    "experts": Case("qwen3-moe", lora(target_modules=[], target_parameters=_EXPERTS)),
    "experts-down": Case("qwen3-moe", lora(target_parameters=_EXPERTS[1:])),
    "experts-usual": Case("qwen3-moe", lora(target_modules=[*_QV, "gate_proj", "up_proj", "down_proj"])),
    "experts-attention": Case("qwen3-moe", lora()),
    "experts-router": Case("qwen3-moe", lora(target_modules=["q_proj", "mlp.gate"])),
    "mixtral-attention": Case("mixtral", lora(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])),
    "mixtral-experts": Case("mixtral", lora(target_modules=["q_proj", "w1", "w2", "w3"])),
    "vision-language": Case("qwen2.5-vl", lora(target_modules=r".*language_model.*\.(q|v)_proj")),
    "vision-too": Case("qwen2.5-vl", lora(target_modules=["q_proj", "v_proj", "qkv"])),
    # other methods
    "adalora": Case("llama", other("AdaLora", init_r=6, target_r=4, lora_alpha=8, target_modules=_QV, total_step=10)),
    "loha": Case("llama", other("LoHa", r=4, alpha=8, target_modules=_QV)),
    "lokr": Case("llama", other("LoKr", r=4, alpha=8, target_modules=_QV)),
    "ia3": Case("llama", other("IA3", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "vera": Case("llama", other("Vera", r=8, target_modules=["q_proj"])),
    "oft": Case("llama", other("OFT", oft_block_size=8, target_modules=_QV)),
    "boft": Case("llama", other("BOFT", boft_block_size=8, target_modules=["q_proj"])),
    "hra": Case("llama", other("HRA", r=4, target_modules=_QV)),
    "norms": Case("llama", other("LNTuning", target_modules=["input_layernorm"])),
    "fourier": Case("llama", other("FourierFT", n_frequency=200, target_modules=["q_proj"])),
    "randlora": Case("llama", other("RandLora", r=8, target_modules=["q_proj"])),
    "shira": Case("llama", other("Shira", r=4, target_modules=["q_proj"])),
    "miss": Case("llama", other("Miss", r=8, target_modules=["q_proj"])),
    "tokens": Case("llama", other("TrainableTokens", token_indices=[5, 8], target_modules=["embed_tokens"])),
    "prompt": Case("llama", other("PromptTuning", num_virtual_tokens=4, task_type="CAUSAL_LM")),
    "prefix": Case("llama", other("PrefixTuning", num_virtual_tokens=4, task_type="CAUSAL_LM")),
}  # fmt: skip
"""By name. Lines are long, so that each adapter is one."""


def write_with_answers(case: Case, folder: Path) -> None:
    """Its folder, and in expected.npz the log-probabilities of PEFT's own model and of the base."""
    adapted = log_probabilities(write(case, folder), case.prompt)
    np.savez(folder / "expected.npz", adapted=adapted, base=log_probabilities(_base(case), case.prompt))


def log_probabilities(model: Any, prompt: tuple[int, ...]) -> Any:
    """Of the last position; a classifier's are those of its classes."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits
    return torch.log_softmax((logits[0, -1] if logits.dim() == 3 else logits[0]).double(), -1).numpy()


def _base(case: Case) -> Any:
    model: Any = bases.make(case.base)
    if case.tokens != bases.VOCABULARY:
        torch.manual_seed(2)
        model.resize_token_embeddings(case.tokens, mean_resizing=False)
    return model


def adapted(case: Case) -> Any:
    """The adapter on its base, as after training."""
    model = _base(case)
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = peft.get_peft_model(model, case.config())
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
            parameter.data = parameter.data.to(case.dtype).float()
    made.active_peft_config.base_model_name_or_path = f"acme/{case.base}"
    return made.eval()


def write(case: Case, folder: Path) -> nn.Module:
    """Its folder; the model that it was written from."""
    made = adapted(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_pretrained(folder, **case.save)
    (folder / "README.md").unlink(missing_ok=True)
    _sort_targets(folder / "adapter_config.json")
    if case.dtype is not torch.float32:
        _rewrite(folder, lambda tensors: {name: one.to(case.dtype) for name, one in tensors.items()})
    case.afterwards(folder)
    return made


def _sort_targets(config: Path) -> None:
    """PEFT writes a set, in no order."""
    said = json.loads(config.read_bytes())
    if isinstance(said.get("target_modules"), list):
        said["target_modules"].sort()
    config.write_text(json.dumps(said, indent=2) + "\n")
