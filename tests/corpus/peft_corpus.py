"""Adapters made by the real PEFT, one of each method and option, on bases small enough to make in the tests.

`BASES` makes the bases, `CASES` name an adapter each; `build` trains nothing but fills every factor with noise, so that
no update is zero.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

TARGETS = ["q_proj", "v_proj"]
FOREIGN = frozenset({"LH307"})  # PEFT writes down that the base's class is not of transformers


class Convolutions(nn.Module):
    """Two convolutions and a linear layer: no model of transformers has both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(pixels)).mean((2, 3)))


def llama(*, tied: bool = False, **changes: Any) -> nn.Module:
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    config = transformers.LlamaConfig(**sizes | changes, tie_word_embeddings=tied)
    return transformers.LlamaForCausalLM(config)


def gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=4)
    )


def qwen_moe() -> nn.Module:
    return transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=24,
            moe_intermediate_size=12,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_experts=4,
            num_experts_per_tok=2,
            head_dim=4,
            tie_word_embeddings=False,
        )
    )


def mixtral() -> nn.Module:
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**SMALL_EXPERTS, num_local_experts=4))


def gpt_oss() -> nn.Module:
    """Its experts are (experts, in, out), interleaved, with biases; here `down_proj` is square, as in the real ones."""
    sizes = SMALL_EXPERTS | {"intermediate_size": 16}
    model = transformers.GptOssForCausalLM(transformers.GptOssConfig(**sizes, num_local_experts=4, sliding_window=8))
    for parameter in model.parameters():  # transformers leaves biases and sinks as the memory was
        parameter.data = 0.1 * torch.randn(parameter.shape)
    return model


SMALL_EXPERTS: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "head_dim": 4,
    "pad_token_id": 0,
}


BASES: dict[str, Callable[[], nn.Module]] = {
    "llama": llama,
    "llama-tied": lambda: llama(tied=True),
    "gpt2": gpt2,
    "conv": Convolutions,
    "moe": qwen_moe,
    "mixtral": mixtral,
    "gpt-oss": gpt_oss,
}


@dataclass(frozen=True)
class Case:
    """One adapter: the base's name, PEFT's configuration, and how it is asked for."""

    base: str
    config: Callable[[], peft.PeftConfig]
    method: str = "lora"
    expected: frozenset[str] = frozenset()
    """Rules of warnings and notes that this adapter deserves on its own base."""
    save: dict[str, Any] = field(default_factory=dict)


def lora(**settings: Any) -> peft.LoraConfig:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS} | settings)


def _case(base: str, method: str, make: type[peft.PeftConfig], *rules: str, **settings: Any) -> Case:
    return Case(base, lambda: make(**settings), method, frozenset(rules))


CASES: dict[str, Case] = {
    "lora": Case("llama", lora),
    "lora-all-linear": Case("llama", lambda: lora(target_modules="all-linear")),
    "lora-expression": Case("llama", lambda: lora(target_modules=r".*\.[12]\.self_attn\.(q|k)_proj")),
    "lora-layers": Case("llama", lambda: lora(layers_to_transform=[0, 2], layers_pattern="layers")),
    "lora-exclude": Case("llama", lambda: lora(exclude_modules=["model.layers.1.self_attn.q_proj"])),
    "lora-patterns": Case(
        "llama",
        lambda: lora(rank_pattern={"q_proj": 2, r"layers\.[12]\.self_attn\.v_proj": 6}, alpha_pattern={"v_proj": 3}),
    ),
    "lora-pattern-order": Case("llama", lambda: lora(rank_pattern={"1.self_attn.q_proj": 2, "q_proj": 6})),
    "rslora": Case("llama", lambda: lora(use_rslora=True)),
    "rslora-patterns": Case("llama", lambda: lora(use_rslora=True, rank_pattern={"q_proj": 2})),
    "dora": Case("llama", lambda: lora(use_dora=True)),
    "dora-gpt2": Case("gpt2", lambda: lora(target_modules=["c_attn"], use_dora=True, fan_in_fan_out=True)),
    "dora-conv": Case("conv", lambda: lora(target_modules=["first", "second"], use_dora=True), expected=FOREIGN),
    "lora-gpt2": Case("gpt2", lambda: lora(target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)),
    "lora-conv": Case("conv", lambda: lora(target_modules=["first", "second", "head"]), expected=FOREIGN),
    "lora-embedding": Case("llama", lambda: lora(target_modules=["q_proj", "embed_tokens"])),
    "lora-head": Case("llama", lambda: lora(target_modules=["q_proj", "lm_head"])),
    "lora-tied-head": Case(
        "llama-tied", lambda: lora(target_modules=["q_proj", "lm_head"]), expected=frozenset({"LH218"})
    ),
    "lora-bias-all": Case("gpt2", lambda: lora(target_modules=["c_attn"], bias="all", fan_in_fan_out=True)),
    "lora-bias-only": Case("gpt2", lambda: lora(target_modules=["c_attn"], bias="lora_only", fan_in_fan_out=True)),
    "lora-up-bias": Case("conv", lambda: lora(target_modules=["head"], lora_bias=True), expected=FOREIGN),
    "lora-saved-modules": Case("llama", lambda: lora(modules_to_save=["lm_head", "norm"])),
    "lora-token-rows": Case("llama", lambda: lora(trainable_token_indices={"embed_tokens": [3, 5, 8]})),
    "lora-experts": Case(
        "moe",
        lambda: lora(target_modules=[], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    ),
    "lora-experts-down": Case(
        "moe", lambda: lora(target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
    ),
    "lora-experts-usual": Case(
        "moe", lambda: lora(target_modules=["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"])
    ),
    "lora-experts-all-linear": Case("moe", lambda: lora(target_modules="all-linear")),
    "lora-experts-mixtral": Case("mixtral", lambda: lora(target_modules=["q_proj", "w1", "w2", "w3"])),
    "lora-experts-turned": Case(
        "gpt-oss",
        lambda: lora(
            target_modules=["q_proj"],
            target_parameters=["gate_up_proj", "gate_up_proj_bias", "down_proj"],
            rank_pattern={"down_proj": 2, "layers.1.mlp.experts.gate_up_proj": 3},
            alpha_pattern={r".*\.gate_up_proj": 5},
            use_rslora=True,
        ),
    ),
    "lora-replicated": Case("llama", lambda: lora(layer_replication=[[0, 2], [1, 3]]), expected=frozenset({"LH219"})),
    "pissa": Case("llama", lambda: lora(init_lora_weights="pissa"), expected=frozenset({"LH216"})),
    "olora": Case("llama", lambda: lora(init_lora_weights="olora"), expected=frozenset({"LH216"})),
    "gaussian": Case("llama", lambda: lora(init_lora_weights="gaussian")),
    "adalora": Case(
        "llama",
        lambda: peft.AdaLoraConfig(init_r=6, target_r=4, lora_alpha=8, target_modules=TARGETS, total_step=10),
        "adalora",
    ),
    "loha": _case("llama", "loha", peft.LoHaConfig, r=4, alpha=8, target_modules=TARGETS),
    "loha-conv": _case(
        "conv", "loha", peft.LoHaConfig, *FOREIGN, r=4, alpha=8, target_modules=["first"], use_effective_conv2d=True
    ),
    "lokr": _case("llama", "lokr", peft.LoKrConfig, r=2, alpha=8, target_modules=TARGETS),
    "lokr-both": _case("llama", "lokr", peft.LoKrConfig, r=1, alpha=4, target_modules=TARGETS, decompose_both=True),
    "lokr-conv": _case(
        "conv", "lokr", peft.LoKrConfig, *FOREIGN, r=2, alpha=8, target_modules=["first"], use_effective_conv2d=True
    ),
    "ia3": _case(
        "llama",
        "ia3",
        peft.IA3Config,
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
    "vera": _case("llama", "vera", peft.VeraConfig, r=4, target_modules=["q_proj"]),
    "vera-no-projection": _case(
        "llama", "vera", peft.VeraConfig, r=4, target_modules=["q_proj"], save_projection=False
    ),
    "oft": _case("llama", "oft", peft.OFTConfig, oft_block_size=4, target_modules=TARGETS),
    "oft-shared": _case("llama", "oft", peft.OFTConfig, oft_block_size=4, target_modules=["q_proj"], block_share=True),
    "boft": _case("llama", "boft", peft.BOFTConfig, boft_block_size=4, target_modules=["q_proj"]),
    "hra": _case("llama", "hra", peft.HRAConfig, r=4, target_modules=TARGETS),
    "ln-tuning": _case("llama", "ln_tuning", peft.LNTuningConfig, target_modules=["input_layernorm"]),
    "fourierft": _case("llama", "fourierft", peft.FourierFTConfig, n_frequency=20, target_modules=["q_proj"]),
    "hira": _case("llama", "hira", peft.HiraConfig, r=4, target_modules=["q_proj"]),
    "shira": _case("llama", "shira", peft.ShiraConfig, r=2, target_modules=["q_proj"]),
    "trainable-tokens": _case(
        "llama", "trainable_tokens", peft.TrainableTokensConfig, token_indices=[1, 2], target_modules=["embed_tokens"]
    ),
    "miss": _case("llama", "miss", peft.MissConfig, r=4, target_modules=["q_proj"]),
    "vblora": _case(
        "llama", "vblora", peft.VBLoRAConfig, r=2, num_vectors=8, vector_length=4, topk=2, target_modules=["q_proj"]
    ),
    "randlora": _case("llama", "randlora", peft.RandLoraConfig, r=2, target_modules=["q_proj"]),
    "road": _case("llama", "road", peft.RoadConfig, group_size=4, target_modules=["q_proj"]),
    "c3a": _case("llama", "c3a", peft.C3AConfig, block_size=4, target_modules=["q_proj"]),
    "delora": _case("llama", "delora", peft.DeloraConfig, r=2, target_modules=["q_proj"]),
    "gralora": _case("llama", "gralora", peft.GraloraConfig, r=4, gralora_k=2, target_modules=["q_proj"]),
    "pvera": _case("llama", "pvera", peft.PveraConfig, r=4, target_modules=["q_proj"]),
    "unilora": _case(
        "llama", "unilora", peft.UniLoraConfig, r=2, theta_d_length=40, save_indices=True, target_modules=["q_proj"]
    ),
    "waveft": _case("llama", "waveft", peft.WaveFTConfig, n_frequency=20, target_modules=["q_proj"]),
    "supertuning": _case("llama", "supertuning", peft.SupertuningConfig, sparsity=0.5, target_modules=TARGETS),
    "deft": _case("llama", "deft", peft.DeftConfig, r=3, target_modules=["q_proj"]),
    "osf": _case("llama", "osf", peft.OSFConfig, effective_rank=5, target_modules=["q_proj"]),
    "peanut": _case("llama", "peanut", peft.PeanutConfig, r=3, target_modules=["q_proj", "up_proj"]),
    "prompt": _case("llama", "prompt_tuning", peft.PromptTuningConfig, num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "p-tuning": _case(
        "llama",
        "p_tuning",
        peft.PromptEncoderConfig,
        num_virtual_tokens=4,
        encoder_hidden_size=8,
        task_type="CAUSAL_LM",
    ),
    "prefix": _case("llama", "prefix_tuning", peft.PrefixTuningConfig, num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "adaption-prompt": _case(
        "llama", "adaption_prompt", peft.AdaptionPromptConfig, adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM"
    ),
}


def write_base(name: str, folder: Path) -> Path:
    """The base as transformers saves it; the convolutions as a bare safetensors file."""
    model = make_base(name)
    if isinstance(model, transformers.PreTrainedModel):
        model.save_pretrained(folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    return folder


def make_base(name: str) -> nn.Module:
    torch.manual_seed(0)
    return BASES[name]()


def build(case: Case, *, named: str | None = None) -> peft.PeftModel:
    """The adapter on its base, as after training. `named` is written as the base's name."""
    model = make_base(case.base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, case.config())
    generator = torch.Generator().manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    adapted.active_peft_config.base_model_name_or_path = named or f"acme/{case.base}"
    return adapted


def write(case: Case, folder: Path, *, named: str | None = None) -> peft.PeftModel:
    adapted = build(case, named=named)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(folder)
    return adapted
