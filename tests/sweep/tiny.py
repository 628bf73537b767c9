"""Any model class of transformers, made in a moment: its own configuration with the sizes shrunk."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto import modeling_auto

MOST_PARAMETERS = 100_000_000
HEADS = (
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "MASKED_LM",
    "TEXT_ENCODING",
    "SPEECH_SEQ_2_SEQ",
    "CTC",
)
"""Of transformers' auto classes: causal, conditional generation, encoder, speech."""

_LAYERS, _WIDTH, _VOCABULARY = 2, 32, 160
_SIZES = {
    **dict.fromkeys(
        "num_hidden_layers num_layers n_layer n_layers num_encoder_layers num_decoder_layers encoder_layers layers "
        "decoder_layers depth speech_encoder_layers t2u_encoder_layers t2u_decoder_layers num_blocks "
        "conf_num_hidden_layers num_layers_per_stack vision_layers encoder_n_layers num_global_layers".split(),
        _LAYERS,
    ),
    **dict.fromkeys(
        "hidden_size n_embd d_model dim embed_dim embedding_size hidden_dim text_hidden_size emb_dim out_hidden_size "
        "projection_dim encoder_hidden_size word_embed_proj_dim backbone_hidden_size attention_hidden_size "
        "projector_hidden_size embedding_dim pooler_hidden_size prediction_head_size output_hidden_size "
        "image_text_hidden_size patch_embed_hidden_size input_hidden_size hidden_size_global".split(),
        _WIDTH,
    ),
    **dict.fromkeys(
        "intermediate_size n_inner d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim ffn_hidden_size mlp_dim dim_ff dff "
        "d_inner moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size "
        "dense_intermediate_size intermediate_size_mlp moe_shared_expert_intermediate_size expert_ffn_hidden_size "
        "speech_encoder_intermediate_size t2u_encoder_ffn_dim t2u_decoder_ffn_dim "
        "shared_experts_intermediate_size".split(),
        64,
    ),
    **dict.fromkeys(
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads "
        "speech_encoder_attention_heads t2u_encoder_attention_heads t2u_decoder_attention_heads "
        "num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads linear_num_key_heads "
        "linear_num_value_heads linear_num_heads index_n_heads resampler_n_heads".split(),
        4,
    ),
    **dict.fromkeys("num_key_value_heads num_kv_heads swa_num_key_value_heads".split(), 2),
    **dict.fromkeys(
        "head_dim d_kv dim_head d_head swa_head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim linear_key_head_dim "
        "linear_value_head_dim linear_head_dim index_head_dim kv_channels resampler_head_dim rotary_dim "
        "query_pre_attn_scalar kv_lora_rank q_lora_rank o_lora_rank codevector_dim proj_codevector_dim "
        "hidden_size_per_layer_input laurel_rank num_conv_pos_embeddings".split(),
        8,
    ),
    "qk_head_dim": 16,
    **dict.fromkeys(
        "num_experts num_local_experts n_routed_experts moe_num_experts zero_expert_num "
        "num_codevectors_per_group".split(),
        4,
    ),
    **dict.fromkeys("num_experts_per_tok moe_topk moe_k index_topk num_conv_pos_embedding_groups n_group".split(), 2),
    **dict.fromkeys("topk_group num_nextn_predict_layers first_k_dense_replace n_shared_experts".split(), 1),
    **dict.fromkeys("max_position_embeddings n_positions n_ctx max_source_positions max_target_positions".split(), 128),
    **dict.fromkeys(
        "vocab_size decoder_vocab_size unpadded_vocab_size vocab_size_per_layer_input t2u_vocab_size audio_vocab_size "
        "unit_hifi_gan_vocab_size ngram_vocab_size_base encoder_hash_byte_group_vocab bigram_vocab_size".split(),
        _VOCABULARY,
    ),
    "image_size": 32,
    "max_2d_position_embeddings": 64,
    "num_feat_extract_layers": 3,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_OWN: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "dots3_note_text": {"num_key_value_heads": 4},
    "esmc": {"num_key_value_heads": 4},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "luke": {"entity_vocab_size": 40, "entity_emb_size": 16},
    "mobilebert": {"pad_token_id": 0, "embedding_size": 16, "intra_bottleneck_size": 16},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16], "is_decoder": True},
    "cohere_compass_text": {"rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), _ROPE)},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "hunyuan_vl_text": {"head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0}, "ffn_config": {"ffn_hidden_size": 64}},
    "mistral_large4_text": {"kv_source_layers": [0, 1], "head_dim": 8},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "num_kv_shared_layers": 0,
        "intermediate_size": [64, 64],
        "activation_sparsity_pattern": [0.95, 0.0],
    },
    "glm5_next_text": {"num_key_value_heads": 4, "index_topk": 16},
    "chameleon": {"vocabulary_map": {"<image>": 5, "IMGIMGA": 6}},
    "cosmos3_edge_text": {"rope_parameters": {**_ROPE, "mrope_section": [2, 1, 1]}},
    "molmo2_adapter": {"vision_feature_layer": [1, 0]},
    "neomme": {"head_dim": 16},
    "ernie4_5_vl_moe_text": {"rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2]}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"]},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64},
    "emu3": {"vq_config": {"base_channels": 32, "embed_dim": 32}, "vocabulary_map": {"<image>": 5}},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    "granite4_vision": {
        "deepstack_layer_map": [[0, 1]],
        "vision_config": {"hidden_size": 64},
        "downsample_rate": "1/2",
    },
    "nemo_speechlm": {"head_config": {"audio_hidden_size": 32}},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "t5gemma": {"is_encoder_decoder": False},
    "mimi": {"upsample_groups": 32},
    "qwen2_5_omni": {"enable_audio_output": False},
    "qwen3_omni_moe": {"enable_audio_output": False},
    "moonshine_streaming": {"num_key_value_heads": 4, "num_attention_heads": 4},
    "vibevoice_acoustic_tokenizer": {"num_filters": 2, "depths": [1] * 7},
    "vibevoice_acoustic_tokenizer_encoder": {"num_filters": 2, "depths": [1] * 7},
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 2, "image_size": 16},
}
"""Model type -> what its own rules ask for."""
_LISTS = {"conv_dim": [8, 8, 8], "conv_stride": [4, 2, 2], "conv_kernel": [8, 3, 3], "tdnn_dim": [8, 8, 8, 8, 16]}


def classes() -> dict[str, str]:
    """Every class with one of the heads -> its model type."""
    found: dict[str, str] = {}
    for head in HEADS:
        for kind, names in getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING_NAMES").items():
            for name in [names] if isinstance(names, str) else names:
                found.setdefault(name, kind)
    return dict(sorted(found.items()))


def make(name: str, *, seed: int = 0) -> transformers.PreTrainedModel:
    """The class with random weights. Raises what transformers raises where it can't be so small."""
    owner: Any = getattr(transformers, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = tiny(owner.config_class)
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in owner(config).parameters())
        if size > MOST_PARAMETERS:
            raise ValueError(f"{size / 1e6:.0f} million parameters")
        torch.manual_seed(seed)
        model: transformers.PreTrainedModel = owner(config).float().eval()
    _give_weights(model)
    return model


def tiny(owner: Any) -> transformers.PreTrainedConfig:
    """A configuration of this class, with every part of it shrunk."""
    default = owner()
    settings = _shrunk(default.to_dict())
    for part, inner in (getattr(default, "sub_configs", None) or {}).items():
        value = getattr(default, part, None)
        if isinstance(value, transformers.PreTrainedConfig):
            settings[part] = tiny(type(value)).to_dict()
        elif inner is not transformers.AutoConfig:
            settings[part] = tiny(inner).to_dict()
    for setting, value in _OWN.get(default.model_type, {}).items():
        inner = settings.get(setting)
        settings[setting] = inner | value if isinstance(inner, dict) and setting.endswith("_config") else value
    made: transformers.PreTrainedConfig = owner(**settings)
    return made


def _shrunk(settings: Mapping[str, Any]) -> dict[str, Any]:
    layers = {value for name, value in settings.items() if _SIZES.get(name) == _LAYERS and isinstance(value, int)}
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, bool) or value is None:
            continue
        if isinstance(value, int):
            if name in _SIZES:
                found[name] = min(value, _SIZES[name])
            elif name.endswith(("token_id", "token_index")) and value >= _VOCABULARY:
                found[name] = _VOCABULARY - 1 - sum(map(ord, name)) % 32
        elif isinstance(value, (list, tuple)):
            if name in _LISTS:
                found[name] = _LISTS[name]
            elif len(value) in layers and len(value) > _LAYERS:
                found[name] = list(value)[-_LAYERS:]
    return found


def _give_weights(model: nn.Module) -> None:
    """Other than a library's zeros and ones, so that each weight counts."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() and parameter.is_floating_point() and (parameter == parameter.flatten()[0]).all():
                parameter.add_(torch.randn_like(parameter) * 0.02)
