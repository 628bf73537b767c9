"""Tiny models of transformers' families that are made of parts, or have names of their own; and PEFT's adapters."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
import transformers as hf

_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 64, **_IDS,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
ENCODER: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
GPT: dict[str, Any] = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, **_IDS}
SEQ2SEQ: dict[str, Any] = {
    "vocab_size": 64, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "decoder_start_token_id": 1, **_IDS,
}  # fmt: skip
MROPE = {"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}


def _wrapper(kind: str, *, text: Any = None, vision: Any = None, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        model, config = getattr(hf, f"{kind}ForConditionalGeneration"), getattr(hf, f"{kind}Config")
        return model(
            config(
                text_config=hf.LlamaConfig(**TEXT) if text is None else text,
                vision_config=hf.CLIPVisionConfig(**VISION, projection_dim=16) if vision is None else vision,
                **settings,
            )
        )

    return make


def _plain(kind: str, config: str, **settings: Any) -> Callable[[], Any]:
    return lambda: getattr(hf, kind)(getattr(hf, config)(**settings))


_QWEN_TEXT = TEXT | {"tie_word_embeddings": False, "rope_parameters": MROPE}
_QWEN_VISION = {
    "depth": 2, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 40, "num_heads": 4, "patch_size": 4,
}  # fmt: skip

FAMILIES: dict[str, Callable[[], Any]] = {
    "qwen2-vl": _wrapper(
        "Qwen2VL",
        text=_QWEN_TEXT,
        vision={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 4},
        tie_word_embeddings=False,
    ),
    "qwen2.5-vl": _wrapper(
        "Qwen2_5_VL", text=_QWEN_TEXT, vision=_QWEN_VISION | {"fullatt_block_indexes": [1]}, tie_word_embeddings=False
    ),
    "qwen3-vl": _wrapper(
        "Qwen3VL",
        text=TEXT | {"head_dim": 8, "rope_parameters": MROPE | {"mrope_interleaved": True}},
        vision=_QWEN_VISION | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
    ),
    "gemma3": _wrapper(
        "Gemma3", text=TEXT | {"head_dim": 8, "sliding_window": 8}, vision=VISION, mm_tokens_per_image=4
    ),
    "llava": _wrapper("Llava"),
    "llava-siglip-mistral": _wrapper(
        "Llava", text=hf.MistralConfig(**TEXT), vision=hf.SiglipVisionConfig(**VISION)
    ),
    "llava-next": _wrapper("LlavaNext", image_grid_pinpoints=[[28, 28]]),
    "llava-onevision": _wrapper(
        "LlavaOnevision", vision=hf.SiglipVisionConfig(**VISION), image_grid_pinpoints=[[28, 28]]
    ),
    "vip-llava": _wrapper("VipLlava", vision_feature_layers=[0, 1]),
    "video-llava": lambda: hf.VideoLlavaForConditionalGeneration(
        hf.VideoLlavaConfig(text_config=hf.LlamaConfig(**TEXT), vision_config=hf.CLIPVisionConfig(**VISION))
    ),
    "paligemma": _wrapper(
        "PaliGemma",
        text=hf.GemmaConfig(**TEXT, head_dim=8),
        vision=hf.SiglipVisionConfig(**VISION, projection_dim=32, vision_use_head=False),
        projection_dim=32,
    ),
    "mistral3": _wrapper(
        "Mistral3", text=hf.MistralConfig(**TEXT, head_dim=8), vision=hf.PixtralVisionConfig(**VISION, head_dim=8)
    ),
    "internvl": _wrapper(
        "InternVL",
        text=hf.Qwen2Config(**TEXT),
        vision={**VISION, "image_size": [28, 28], "patch_size": [14, 14]},
    ),
    "idefics3": _wrapper("Idefics3", text=hf.LlamaConfig(**TEXT), vision=VISION),
    "smolvlm": _wrapper("SmolVLM", text=hf.LlamaConfig(**TEXT), vision=VISION),
    "aya-vision": _wrapper("AyaVision", text=hf.Cohere2Config(**TEXT), vision=hf.SiglipVisionConfig(**VISION)),
    "mllama": _wrapper(
        "Mllama",
        text=TEXT
        | {
            "num_hidden_layers": 3,
            "cross_attention_layers": [1],
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        vision={
            "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_global_layers": 1,
            "attention_heads": 4, "image_size": 28, "patch_size": 14, "intermediate_layers_indices": [0, 1],
            "vision_output_dim": 96, "max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]],
        },
    ),
    "qwen2-audio": lambda: hf.Qwen2AudioForConditionalGeneration(
        hf.Qwen2AudioConfig(
            text_config=hf.Qwen2Config(**TEXT),
            audio_config={
                "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 40,
                "num_mel_bins": 8, "max_source_positions": 16,
            },
        )
    ),
    "blip2": lambda: hf.Blip2ForConditionalGeneration(
        hf.Blip2Config(
            text_config=hf.OPTConfig(
                vocab_size=64, hidden_size=32, ffn_dim=40, num_hidden_layers=1, num_attention_heads=2,
                word_embed_proj_dim=32, max_position_embeddings=32, **_IDS,
            ),
            vision_config=VISION,
            qformer_config={**ENCODER, "encoder_hidden_size": 32},
            num_query_tokens=4,
        )
    ),
    "gemma3-text": _plain("Gemma3ForCausalLM", "Gemma3TextConfig", **TEXT, head_dim=8, sliding_window=8),
    "whisper": _plain(
        "WhisperForConditionalGeneration", "WhisperConfig", **SEQ2SEQ, num_mel_bins=8, max_source_positions=16,
        max_target_positions=16,
    ),
    "wav2vec2": lambda: hf.Wav2Vec2ForCTC(
        hf.Wav2Vec2Config(
            **{key: value for key, value in ENCODER.items() if key != "max_position_embeddings"},
            conv_dim=(16, 16), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
            num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        )
    ),
    "clip": lambda: hf.CLIPModel(
        hf.CLIPConfig(
            text_config={**ENCODER, "projection_dim": 16}, vision_config={**VISION, "projection_dim": 16},
            projection_dim=16,
        )
    ),
    "clip-text": _plain("CLIPTextModel", "CLIPTextConfig", **ENCODER),
    "siglip": lambda: hf.SiglipModel(
        hf.SiglipConfig(text_config={**ENCODER, "projection_size": 32}, vision_config=VISION)
    ),
    "t5": _plain(
        "T5ForConditionalGeneration", "T5Config", vocab_size=64, d_model=32, d_kv=8, d_ff=40, num_layers=1, num_heads=4,
        decoder_start_token_id=0,
    ),
    "bart": _plain("BartForConditionalGeneration", "BartConfig", **SEQ2SEQ, max_position_embeddings=32),
    "bert": _plain("BertForMaskedLM", "BertConfig", **ENCODER),
    "bert-bare": _plain("BertModel", "BertConfig", **ENCODER),
    "bert-classifier": _plain("BertForSequenceClassification", "BertConfig", **ENCODER),
    "roberta": _plain("RobertaForMaskedLM", "RobertaConfig", **ENCODER),
    "modernbert": _plain("ModernBertForMaskedLM", "ModernBertConfig", **ENCODER, cls_token_id=1, sep_token_id=2),
    "nomic-bert": _plain("NomicBertForMaskedLM", "NomicBertConfig", **ENCODER),
    "gte": _plain("GteForMaskedLM", "GteConfig", **ENCODER),
    "gpt2": _plain("GPT2LMHeadModel", "GPT2Config", **GPT),
    "gpt-neox": _plain("GPTNeoXForCausalLM", "GPTNeoXConfig", **ENCODER),
    "bloom": _plain("BloomForCausalLM", "BloomConfig", vocab_size=64, hidden_size=32, n_layer=2, n_head=4, **_IDS),
    "falcon": _plain(
        "FalconForCausalLM", "FalconConfig", vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        **_IDS,
    ),
    "mpt": _plain("MptForCausalLM", "MptConfig", vocab_size=64, d_model=32, n_layers=2, n_heads=4, max_seq_len=32),
}  # fmt: skip


def write_base(model: Any, folder: Path) -> Path:
    model.float().save_pretrained(folder)
    return folder


def write_adapter(model: Any, folder: Path, **settings: Any) -> Any:
    """PEFT's LoRA on `all-linear`, if nothing else is said, with random factors. Returns the model with it."""
    linear = r".*(proj|dense)" if model.config.model_type == "wav2vec2" else "all-linear"  # of it PEFT doesn't know
    chosen: dict[str, Any] = {"target_modules": linear, "r": 4, "lora_alpha": 8, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, peft.LoraConfig(**chosen))
        generator = torch.Generator().manual_seed(7)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        adapted.save_pretrained(folder)
    return adapted
