"""Tiny bases that every runtime takes: two heads of 64, whole words for tokens, weights large enough to matter."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import nn

VOCABULARY = 256
PROMPT = (3, 17, 5, 42, 7, 8, 99, 23, 61, 150, 5, 12)
"""Among them are the tokens that adapters of token rows train (5, 8, 23), and those that call an aLoRA (7, 8)."""

_IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "initializer_range": 0.08,
    "tie_word_embeddings": False,
    **_IDS,
}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY, "n_embd": 128, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.08,
    **_IDS,
}  # fmt: skip
_MULTIMODAL_ROPE = {"rope_type": "default", "type": "mrope", "mrope_section": [8, 12, 12], "rope_theta": 1e4}
_VISION: dict[str, Any] = {
    "depth": 2, "hidden_size": 64, "out_hidden_size": 128, "intermediate_size": 96, "num_heads": 1, "patch_size": 14,
    "fullatt_block_indexes": [1],
}  # fmt: skip


def _made(family: str, settings: Mapping[str, Any] = _TEXT, *, head: str = "ForCausalLM", **changes: Any) -> Any:
    return lambda: getattr(hf, family + head)(getattr(hf, f"{family}Config")(**{**settings, **changes}))


_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96, "head_dim": 64, "norm_topk_prob": True}

TEXT: dict[str, Callable[[], nn.Module]] = {
    "llama": _made("Llama"),
    "llama-tied": _made("Llama", tie_word_embeddings=True),
    "llama-classifier": _made("Llama", head="ForSequenceClassification", num_labels=3),
    "mistral": _made("Mistral", sliding_window=None),
    "qwen2": _made("Qwen2"),
    "qwen3": _made("Qwen3", head_dim=64),
    "gemma2": _made("Gemma2", head_dim=64, tie_word_embeddings=True, query_pre_attn_scalar=64),
    "phi3": _made("Phi3"),
    "stablelm": _made("StableLm"),
    "gpt2": _made("GPT2", _GPT2, head="LMHeadModel"),
    "qwen3-moe": _made("Qwen3Moe", **_MOE),
    "mixtral": _made("Mixtral", num_local_experts=4, num_experts_per_tok=2, head_dim=64),
    "qwen2.5-vl": lambda: hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(
            text_config=_TEXT | {"rope_parameters": _MULTIMODAL_ROPE},
            vision_config=_VISION,
            tie_word_embeddings=False,
        )
    ),
}


def _pipeline() -> Any:
    import diffusers

    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    text = hf.CLIPTextConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=VOCABULARY,
        projection_dim=64,
        **_IDS,
    )
    return {"unet": unet, "text_encoder": hf.CLIPTextModel(text)}


def _flux() -> Any:
    import diffusers

    denoiser = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return {"transformer": denoiser}


PIPELINES: dict[str, Callable[[], Mapping[str, nn.Module]]] = {"sd15": _pipeline, "flux": _flux}
"""Parts by name."""
_CLASSES = {"sd15": "StableDiffusionPipeline", "flux": "FluxPipeline"}


def make(name: str) -> nn.Module:
    """The same weights each time."""
    torch.manual_seed(0)
    model = TEXT[name]()
    for one in model.parameters():
        if one.dim() == 1:  # biases and norms begin as zeros and ones, and would tell nothing
            one.data += 0.05 * torch.randn_like(one)
    return model.float().eval()


def make_pipeline(name: str) -> Mapping[str, nn.Module]:
    torch.manual_seed(0)
    return {part: model.float().eval() for part, model in PIPELINES[name]().items()}


def write(name: str, folder: Path) -> None:
    """As published: config.json as older runtimes read it too, and a tokenizer whose token n is `t<n>`."""
    if name in PIPELINES:
        for part, model in make_pipeline(name).items():
            model.save_pretrained(folder / part)
            if part == "text_encoder":
                _as_published(folder / part / "model.safetensors")
        index = {"_class_name": _CLASSES[name], "_diffusers_version": "0.42.1"}
        (folder / "model_index.json").write_text(json.dumps(index))
        return
    make(name).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_bytes())
    rope = config.get("rope_parameters")
    if rope:
        config.setdefault("rope_theta", rope["rope_theta"])
        config |= {key: rope[key] for key in ("partial_rotary_factor",) if key in rope}
    if "num_local_experts" in config:
        config.setdefault("num_experts", config["num_local_experts"])
    config["torch_dtype"] = config.get("dtype", "float32")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    _write_tokenizer(folder)


def _as_published(file: Path) -> None:
    """With the prefix that transformers 5 no longer writes, and every published text encoder has."""
    tensors = load_file(file)
    save_file({f"text_model.{name.removeprefix('text_model.')}": one for name, one in tensors.items()}, file)


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"t{number}": number for number in range(VOCABULARY)}
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {word: number for word, number in words.items() if number > 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )
    fast.save_pretrained(folder)
