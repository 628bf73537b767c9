"""Writes client/lorahub/adapters/names/image_names.json: how diffusers names the weights of image and video models, and
how the models' authors do.

Nothing here is believed: each name of an author's is given a tensor whose numbers say which row of which tensor they
are, diffusers' own converter is run on all of them, and where the rows come out is written down. A name that its
converter doesn't know, or that leads to no weight of the class, fails.

    python tools/image_names.py
"""

import inspect
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders import lora_conversion_utils as of_adapters
from diffusers.loaders import single_file_utils as of_checkpoints
from diffusers.loaders.peft import PeftAdapterMixin

TABLE = Path(__file__).parents[1] / "client/lorahub/adapters/names/image_names.json"
_BLOCKS = 3
_MOST_ROWS = 1 << 20
_FIRST_ROWS = 24  # divides into halves, thirds, quarters and eighths
_PARAMETERS = "weight bias scale modulation register_tokens padding_tokens y_embedding".split()
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")

Converter = Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Spelling:
    """The names that an author's tensors have: `{}` is the number of a block, `{a,b}` are two names; without a last
    name that is one of a parameter, weight and bias are meant; `!` is before one that the class has no weight for.
    """

    source: str
    convert: Converter
    names: str
    rows: Mapping[str, int] = field(default_factory=dict)
    """Rows of tensors that the converter cuts by fixed sizes, by one of the names."""
    blocks: int = _BLOCKS
    prefix: str = ""
    """What the converter wants before each name, and names in the wild needn't have."""


@dataclass(frozen=True)
class Family:
    """A class of diffusers, at the size that its converter is made for but with few blocks, and its spellings."""

    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    spellings: tuple[Spelling, ...] = ()


def _checkpoint(name: str, **more: Any) -> Converter:
    convert = getattr(of_checkpoints, f"convert_{name}")
    return lambda tensors: convert(tensors, **more)


def _adapter(name: str) -> Converter:
    """A converter of adapters, told that each tensor is the `lora_B` of a module; `lora_A` is there as well."""
    convert = getattr(of_adapters, f"_convert_{name}")

    def whole(tensors: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        pairs: dict[str, torch.Tensor] = {}
        for key, value in _weights(tensors):
            module = key.removesuffix(".weight")
            pairs |= {f"{module}.lora_B.weight": value, f"{module}.lora_A.weight": torch.zeros(1, 1, dtype=value.dtype)}
        return _ups(convert(pairs))

    return whole


def _weights(tensors: dict[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    return [(key, value) for key, value in tensors.items() if key.endswith(".weight")]


class _Kept(dict[str, torch.Tensor]):
    """Keeps what is taken out of it: a converter looks for Cosmos 1's names when it has emptied what it looks into."""

    def pop(self, key: str, *_: Any) -> torch.Tensor:  # type: ignore[override]
        return self[key]


def _cosmos(tensors: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    return of_checkpoints.convert_cosmos_transformer_checkpoint_to_diffusers(_Kept(tensors))


def _open_clip(tensors: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    text_model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**_CLIP))
    return of_checkpoints.convert_open_clip_checkpoint(text_model, tensors)


def _ups(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    end = ".lora_B.weight"
    return {
        f"{key.removesuffix(end).partition('.')[2]}.weight": value
        for key, value in tensors.items()
        if key.endswith(end)
    }


def _xlabs(tensors: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    pairs: dict[str, torch.Tensor] = {}
    for key, value in _weights(tensors):
        module = key.removesuffix(".weight")
        pairs |= {f"{module}.up.weight": value, f"{module}.down.weight": torch.zeros(1, 1, dtype=value.dtype)}
    return _ups(of_adapters._convert_xlabs_flux_lora_to_diffusers(pairs))


_BFL_OUTER = """
img_in txt_in time_in.{in,out}_layer vector_in.{in,out}_layer guidance_in.{in,out}_layer final_layer.linear
final_layer.adaLN_modulation.1
"""
_BFL_BLOCKS = """
double_blocks.{}.{img,txt}_attn.{qkv,proj} double_blocks.{}.{img,txt}_mlp.{0,2}
double_blocks.{}.{img,txt}_attn.norm.{query,key}_norm.scale
single_blocks.{}.{linear1,linear2} single_blocks.{}.norm.{query,key}_norm.scale
"""
_BFL_MODULATION = "double_blocks.{}.{img,txt}_mod.lin single_blocks.{}.modulation.lin"
_XLABS = "double_blocks.{}.processor.{qkv,proj}_lora{1,2} single_blocks.{}.processor.{qkv,proj}_lora"
_WAN = """
patch_embedding time_embedding.{0,2} text_embedding.{0,2} time_projection.1 head.head head.modulation
img_emb.proj.{0,1,3,4} blocks.{}.modulation blocks.{}.{self,cross}_attn.{q,k,v,o}
blocks.{}.{self,cross}_attn.norm_{q,k}.weight blocks.{}.cross_attn.{k_img,v_img} blocks.{}.cross_attn.norm_k_img.weight
blocks.{}.norm3 blocks.{}.ffn.{0,2}
"""
_WAN_VACE = """
vace_patch_embedding vace_blocks.{}.modulation vace_blocks.{}.{self,cross}_attn.{q,k,v,o}
vace_blocks.{}.{self,cross}_attn.norm_{q,k}.weight vace_blocks.{}.norm3 vace_blocks.{}.ffn.{0,2}
vace_blocks.{}.cross_attn.{k_img,v_img} vace_blocks.{}.cross_attn.norm_k_img.weight
vace_blocks.{}.before_proj vace_blocks.{}.after_proj
"""
_WAN_ANIMATE = """
pose_patch_embedding face_adapter.fuser_blocks.{}.{linear1_kv,linear1_q,linear2}
face_adapter.fuser_blocks.{}.{q,k}_norm.weight face_encoder.conv1_local.conv face_encoder.{conv2,conv3}.conv
face_encoder.out_proj face_encoder.padding_tokens motion_encoder.enc.fc.{0,1,2,3,4}
motion_encoder.dec.direction.weight motion_encoder.enc.net_app.convs.0.0.weight
motion_encoder.enc.net_app.convs.8.weight motion_encoder.enc.net_app.convs.{1,2,3,4,5,6,7}.conv1.0.weight
motion_encoder.enc.net_app.convs.{1,2,3,4,5,6,7}.conv2.1.weight
motion_encoder.enc.net_app.convs.{1,2,3,4,5,6,7}.skip.1.weight
"""
_WAN_ANIMATE_2 = """
blocks.{}.block.{self,cross}_attn.{q,k,v,o} blocks.{}.block.{self,cross}_attn.norm_{q,k}.weight
blocks.{}.block.cross_attn.{k_img,v_img} blocks.{}.block.cross_attn.norm_k_img.weight blocks.{}.block.norm3
blocks.{}.block.ffn.{0,2} blocks.{}.block.modulation
"""
_HUNYUAN = """
img_in.proj time_in.mlp.{0,2} vector_in.{in,out}_layer guidance_in.mlp.{0,2} txt_in.input_embedder
txt_in.t_embedder.mlp.{0,2} txt_in.c_embedder.linear_{1,2}
txt_in.individual_token_refiner.blocks.{}.{norm1,norm2,self_attn_qkv,self_attn_proj}
txt_in.individual_token_refiner.blocks.{}.mlp.{fc1,fc2} txt_in.individual_token_refiner.blocks.{}.adaLN_modulation.1
double_blocks.{}.{img,txt}_mod.linear double_blocks.{}.{img,txt}_attn_{qkv,proj}
double_blocks.{}.{img,txt}_mlp.{fc1,fc2}
double_blocks.{}.{img,txt}_attn_{q,k}_norm.weight single_blocks.{}.{linear1,linear2} single_blocks.{}.modulation.linear
single_blocks.{}.{q,k}_norm.weight final_layer.linear final_layer.adaLN_modulation.1
"""
_SD3 = """
pos_embed x_embedder.proj t_embedder.mlp.{0,2} context_embedder y_embedder.mlp.{0,2}
joint_blocks.{}.{x,context}_block.attn.{qkv,proj} joint_blocks.{}.{x,context}_block.attn.ln_{q,k}.weight
joint_blocks.{}.x_block.attn2.{qkv,proj} joint_blocks.{}.x_block.attn2.ln_{q,k}.weight
joint_blocks.{}.{x,context}_block.adaLN_modulation.1 joint_blocks.{}.{x,context}_block.mlp.{fc1,fc2}
final_layer.linear final_layer.adaLN_modulation.1
"""
_MOCHI = """
x_embedder.proj t_embedder.mlp.{0,2} t5_y_embedder.{to_kv,to_q,to_out} t5_yproj blocks.{}.mod_{x,y}
blocks.{}.attn.{qkv,proj}_{x,y} blocks.{}.attn.{q,k}_norm_{x,y}.weight blocks.{}.mlp_{x,y}.{w1,w2}
final_layer.mod final_layer.linear pos_frequencies
"""
_AURAFLOW = """
register_tokens positional_encoding init_x_linear t_embedder.mlp.{0,2} cond_seq_linear final_linear modF.1
double_layers.{}.mlp{X,C}.{c_fc1,c_fc2,c_proj} double_layers.{}.mod{X,C}.1
double_layers.{}.attn.w{1,2}{q,k,v,o} single_layers.{}.mlp.{c_fc1,c_fc2,c_proj} single_layers.{}.modCX.1
single_layers.{}.attn.w1{q,k,v,o}
"""
_LUMINA2 = """
x_embedder cap_embedder.{0,1} t_embedder.mlp.{0,2} final_layer.linear final_layer.adaLN_modulation.1
{layers,noise_refiner,context_refiner}.{}.attention.{qkv,out}
{layers,noise_refiner,context_refiner}.{}.attention.{q,k}_norm.weight
{layers,noise_refiner,context_refiner}.{}.{attention,ffn}_norm{1,2}.weight
{layers,noise_refiner,context_refiner}.{}.feed_forward.{w1,w2,w3} {layers,noise_refiner}.{}.adaLN_modulation.1
"""
_SANA = """
x_embedder.proj t_embedder.mlp.{0,2} t_block.1 y_embedder.y_proj.{fc1,fc2} attention_y_norm.weight !pos_embed
!y_embedder.y_embedding blocks.{}.scale_shift_table blocks.{}.attn.{qkv,proj}
blocks.{}.cross_attn.{q_linear,kv_linear,proj}
blocks.{}.mlp.{inverted,depth,point}_conv.conv final_layer.linear final_layer.scale_shift_table
"""
_COSMOS_1 = """
x_embedder.proj.1 t_embedder.1.linear_{1,2} affline_norm.weight extra_pos_embedder.pos_emb_{t,h,w}
blocks.block{}.blocks.{0,1}.block.attn.to_{q,k}.{0,1}.weight blocks.block{}.blocks.{0,1}.block.attn.to_v.0.weight
blocks.block{}.blocks.{0,1}.block.attn.to_out.0.weight blocks.block{}.blocks.2.block.layer{1,2}.weight
blocks.block{}.blocks.{0,1,2}.adaLN_modulation.{1,2}.weight final_layer.linear final_layer.adaLN_modulation.{1,2}.weight
"""
_COSMOS_2 = """
x_embedder.proj.1 t_embedder.1.linear_{1,2} t_embedding_norm.weight
blocks.{}.{self,cross}_attn.{q,k,v}_proj.weight blocks.{}.{self,cross}_attn.output_proj.weight
blocks.{}.{self,cross}_attn.{q,k}_norm.weight blocks.{}.mlp.layer{1,2}.weight
blocks.{}.adaln_modulation_{self_attn,cross_attn,mlp}.{1,2}.weight final_layer.linear
final_layer.adaln_modulation.{1,2}.weight
"""
_ZIMAGE = """
x_embedder final_layer.linear final_layer.adaLN_modulation.1
{layers,noise_refiner,context_refiner}.{}.attention.{qkv,out}.weight
{layers,noise_refiner,context_refiner}.{}.attention.{q,k}_norm.weight
"""
_FLUX2 = """
img_in txt_in time_in.{in,out}_layer guidance_in.{in,out}_layer final_layer.linear final_layer.adaLN_modulation.1.weight
double_stream_modulation_{img,txt}.lin single_stream_modulation.lin
"""
_FLUX3 = """
emb_in.{image,image_cond} txt_in content_mode_blocks.image.{}.{q_proj,k_proj,v_proj,attn_out,mlp_in,mlp_out}.weight
single_blocks.{}.{q_proj,k_proj,v_proj,attn_out,mlp_in,mlp_out}.weight
"""
_LTX = "patchify_proj adaln_single.emb.timestep_embedder.linear_{1,2} adaln_single.linear"
_LTX_NORMS = "transformer_blocks.{}.{attn1,attn2}.{q,k}_norm.weight"
_LTX2 = """
patchify_proj audio_patchify_proj {,audio_}adaln_single.emb.timestep_embedder.linear_{1,2} {,audio_}adaln_single.linear
{,audio_}prompt_adaln_single.emb.timestep_embedder.linear_{1,2} {,audio_}prompt_adaln_single.linear
av_ca_{video_scale_shift,a2v_gate,audio_scale_shift,v2a_gate}_adaln_single.emb.timestep_embedder.linear_{1,2}
av_ca_{video_scale_shift,a2v_gate,audio_scale_shift,v2a_gate}_adaln_single.linear
transformer_blocks.{}.{attn1,attn2,audio_attn1,audio_attn2,audio_to_video_attn,video_to_audio_attn}.{q,k}_norm
"""
_KREA2 = """
first tmlp.{0,2} tproj.1 txtmlp.0.scale txtmlp.{1,3} txtfusion.projector last.linear last.norm.scale
blocks.{}.attn.{wq,wk,wv,wo,gate}.weight blocks.{}.mlp.{gate,up,down}.weight blocks.{}.{pre,post}norm.scale
blocks.{}.attn.qknorm.{q,k}norm.scale txtfusion.{layerwise,refiner}_blocks.{}.attn.{wq,wk,wv,wo,gate}.weight
txtfusion.{layerwise,refiner}_blocks.{}.mlp.{gate,up,down}.weight
txtfusion.{layerwise,refiner}_blocks.{}.{pre,post}norm.scale
txtfusion.{layerwise,refiner}_blocks.{}.attn.qknorm.{q,k}norm.scale
"""
_MINIMAX = """
{blocks,token_refiner.blocks}.{}.attn.{qkv_proj,out_proj}.weight {blocks,token_refiner.blocks}.{}.mlp.{fc1,fc2}.weight
{blocks,token_refiner.blocks}.{}.attn.{q,k}_norm.weight time_embedder.proj_{in,out} {video,audio}_patch_proj
condition_proj final_layer.{video,audio}_out final_layer.adaln_proj.linear final_layer.norm.weight
"""
_IDEOGRAM = "layers.{}.attention.{qkv,o}.weight"
_ACE_STEP = "layers.{}.{self,cross}_attn.{q,k,v,o}_proj.weight"
_QWEN_21 = "transformer_blocks.{}.img_mlp.gate_up.weight"

_OPEN_CLIP = """
transformer.resblocks.{}.attn.in_proj_weight transformer.resblocks.{}.attn.in_proj_bias
transformer.resblocks.{}.attn.out_proj transformer.resblocks.{}.mlp.{c_fc,c_proj} transformer.resblocks.{}.ln_{1,2}
token_embedding.weight positional_embedding ln_final
"""

_WAN_SETTINGS = {"num_layers": _BLOCKS, "image_dim": 1280, "added_kv_proj_dim": 5120}
_WAN_SPELLING = Spelling("convert_wan_transformer_to_diffusers", _checkpoint("wan_transformer_to_diffusers"), _WAN)


def _wan(more: str) -> tuple[Spelling, ...]:
    return (Spelling(_WAN_SPELLING.source, _WAN_SPELLING.convert, _WAN + more),)


def _bfl(name: str, names: str, rows: Mapping[str, int] | None = None) -> Spelling:
    return Spelling(
        f"convert_{name}_transformer_checkpoint_to_diffusers",
        _checkpoint(f"{name}_transformer_checkpoint_to_diffusers"),
        names,
        rows or {},
    )


_FLUX_ROWS = {"linear1": 7 * 3072}
_TWO = {"num_layers": _BLOCKS, "num_single_layers": _BLOCKS}
_HUNYUAN_SPELLING = Spelling(
    "convert_hunyuan_video_transformer_to_diffusers",
    _checkpoint("hunyuan_video_transformer_to_diffusers"),
    _HUNYUAN,
    _FLUX_ROWS,
)
_COSMOS = "convert_cosmos_transformer_checkpoint_to_diffusers"

TEXT_ENCODER = "CLIPTextModel"
_CLIP = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": _BLOCKS, "num_attention_heads": 2}

_SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "time_cond_proj_dim": 256,
}

FAMILIES = (
    Family(
        TEXT_ENCODER,
        _CLIP,
        (
            Spelling(
                "convert_open_clip_checkpoint",
                _open_clip,
                _OPEN_CLIP,
                {"in_proj_weight": 3 * 48, "in_proj_bias": 3 * 48},
                prefix="cond_stage_model.model.",
            ),
        ),
    ),
    Family("UNet2DConditionModel", _SDXL),
    Family("Transformer2DModel", {"in_channels": 32}),
    Family("EasyAnimateTransformer3DModel", {"in_channels": 16, "num_layers": _BLOCKS}),
    Family("LatteTransformer3DModel", {"in_channels": 4, "out_channels": 8, "sample_size": 32, "patch_size": 2}),
    Family(
        "FluxTransformer2DModel",
        {**_TWO, "guidance_embeds": True},
        (
            _bfl("flux", _BFL_OUTER + _BFL_BLOCKS + _BFL_MODULATION, _FLUX_ROWS),
            Spelling("_convert_xlabs_flux_lora_to_diffusers", _xlabs, _XLABS),
        ),
    ),
    Family(
        "ChromaTransformer2DModel",
        {**_TWO, "approximator_layers": _BLOCKS},
        (
            _bfl(
                "chroma",
                "img_in txt_in final_layer.linear distilled_guidance_layer.{in,out}_proj "
                "distilled_guidance_layer.layers.{}.{in,out}_layer distilled_guidance_layer.norms.{}.scale"
                + _BFL_BLOCKS,
                _FLUX_ROWS,
            ),
        ),
    ),
    Family("Flux2Transformer2DModel", _TWO, (_bfl("flux2", _FLUX2 + _BFL_BLOCKS),)),
    Family("Flux3Transformer2DModel", _TWO, (_bfl("flux3", _FLUX3),)),
    Family(
        "SD3Transformer2DModel",
        {"num_layers": _BLOCKS, "dual_attention_layers": tuple(range(_BLOCKS)), "qk_norm": "rms_norm"},
        (_bfl("sd3", _SD3),),
    ),
    Family("WanTransformer3DModel", _WAN_SETTINGS, (_WAN_SPELLING,)),
    Family("SkyReelsV2Transformer3DModel", {**_WAN_SETTINGS, "added_kv_proj_dim": 2048}, (_WAN_SPELLING,)),
    Family("ChronoEditTransformer3DModel", _WAN_SETTINGS, (_WAN_SPELLING,)),
    Family(
        "WanVACETransformer3DModel",
        {**_WAN_SETTINGS, "vace_layers": list(range(_BLOCKS))},
        _wan(_WAN_VACE),
    ),
    Family(
        "WanAnimateTransformer3DModel",
        {**_WAN_SETTINGS, "inject_face_latents_blocks": 1},
        _wan(_WAN_ANIMATE),
    ),
    Family(
        "WanAnimate2Transformer3DModel",
        {"num_layers": _BLOCKS},
        (
            Spelling(
                "convert_wan_animate_2_transformer_to_diffusers",
                _checkpoint("wan_animate_2_transformer_to_diffusers"),
                _WAN_ANIMATE_2,
            ),
        ),
    ),
    Family(
        "HeliosTransformer3DModel",
        {"num_layers": _BLOCKS},
        (Spelling(_WAN_SPELLING.source, _WAN_SPELLING.convert, re.sub(r"\S*img\S*|head.modulation", "", _WAN)),),
    ),
    Family("HunyuanVideoTransformer3DModel", {**_TWO, "num_refiner_layers": _BLOCKS}, (_HUNYUAN_SPELLING,)),
    Family("HunyuanVideoFramepackTransformer3DModel", {**_TWO, "num_refiner_layers": _BLOCKS}, (_HUNYUAN_SPELLING,)),
    Family(
        "LTXVideoTransformer3DModel",
        {"num_layers": _BLOCKS},
        (
            Spelling(
                "convert_ltx_transformer_checkpoint_to_diffusers",
                _checkpoint("ltx_transformer_checkpoint_to_diffusers"),
                _LTX + " " + _LTX_NORMS,
            ),
        ),
    ),
    Family(
        "LTX2VideoTransformer3DModel",
        {"num_layers": _BLOCKS, "use_prompt_adaln_single": True, "cross_attn_mod": True, "audio_cross_attn_mod": True},
        (
            Spelling(
                "_convert_non_diffusers_ltx2_lora_to_diffusers",
                _adapter("non_diffusers_ltx2_lora_to_diffusers"),
                re.sub(r"transformer_blocks\S*", "", _LTX2),
                prefix="diffusion_model.",
            ),
            Spelling(
                "convert_ltx2_transformer_to_diffusers",
                _checkpoint("ltx2_transformer_to_diffusers"),
                "transformer_blocks.{}.{attn1,attn2,audio_attn1,audio_attn2,audio_to_video_attn,video_to_audio_attn}"
                ".{q,k}_norm.weight transformer_blocks.{}.scale_shift_table_a2v_ca_{video,audio}",
            ),
        ),
    ),
    Family("QwenImageTransformer2DModel", {"num_layers": _BLOCKS}),
    Family(
        "QwenImage21Transformer2DModel",
        {"num_layers": _BLOCKS},
        (
            Spelling(
                "convert_qwen_image21_transformer_checkpoint_to_diffusers",
                _checkpoint("qwen_image21_transformer_checkpoint_to_diffusers"),
                _QWEN_21,
            ),
        ),
    ),
    Family(
        "ZImageTransformer2DModel",
        {"n_layers": _BLOCKS, "n_refiner_layers": _BLOCKS},
        (
            Spelling(
                "convert_z_image_transformer_checkpoint_to_diffusers",
                _checkpoint("z_image_transformer_checkpoint_to_diffusers"),
                _ZIMAGE,
            ),
        ),
    ),
    Family(
        "Lumina2Transformer2DModel",
        {"num_layers": _BLOCKS, "num_refiner_layers": 2},
        (
            Spelling(
                "convert_lumina2_to_diffusers", _checkpoint("lumina2_to_diffusers"), _LUMINA2, {"qkv": 3840}, blocks=2
            ),
        ),
    ),
    Family(
        "HiDreamImageTransformer2DModel",
        {**_TWO, "patch_size": 2, "llama_layers": [0] * 6, "caption_channels": [4096, 4096]},
    ),
    Family(
        "CosmosTransformer3DModel",
        {"num_layers": _BLOCKS},
        (
            Spelling(_COSMOS, _cosmos, _COSMOS_1, prefix="net."),
            Spelling(_COSMOS, _cosmos, _COSMOS_2),
        ),
    ),
    Family(
        "AuraFlowTransformer2DModel",
        {"num_mmdit_layers": _BLOCKS, "num_single_dit_layers": _BLOCKS},
        (
            Spelling(
                "convert_auraflow_transformer_checkpoint_to_diffusers",
                _checkpoint("auraflow_transformer_checkpoint_to_diffusers"),
                _AURAFLOW,
            ),
        ),
    ),
    Family(
        "SanaTransformer2DModel",
        {"num_layers": _BLOCKS},
        (Spelling("convert_sana_transformer_to_diffusers", _checkpoint("sana_transformer_to_diffusers"), _SANA),),
    ),
    Family(
        "MochiTransformer3DModel",
        {},
        (
            Spelling(
                "convert_mochi_transformer_checkpoint_to_diffusers",
                _checkpoint("mochi_transformer_checkpoint_to_diffusers"),
                _MOCHI,
                blocks=48,
            ),
        ),
    ),
    Family(
        "Krea2Transformer2DModel",
        {"num_layers": _BLOCKS, "num_layerwise_text_blocks": _BLOCKS, "num_refiner_text_blocks": _BLOCKS},
        (_bfl("krea2", _KREA2),),
    ),
    Family(
        "MiniMaxH3Transformer3DModel",
        {"num_layers": _BLOCKS, "num_refiner_layers": _BLOCKS},
        (
            Spelling(
                "convert_minimax_h3_transformer_checkpoint_to_diffusers",
                _checkpoint("minimax_h3_transformer_checkpoint_to_diffusers", config={}),
                _MINIMAX,
            ),
        ),
    ),
    Family(
        "Ideogram4Transformer2DModel",
        {"num_layers": _BLOCKS},
        (
            Spelling(
                "_convert_non_diffusers_ideogram4_lora_to_diffusers",
                _adapter("non_diffusers_ideogram4_lora_to_diffusers"),
                _IDEOGRAM,
            ),
        ),
    ),
    Family(
        "AceStepTransformer1DModel",
        {"num_hidden_layers": _BLOCKS},
        (
            Spelling(
                "_convert_non_diffusers_ace_step_lora_to_diffusers",
                _adapter("non_diffusers_ace_step_lora_to_diffusers"),
                _ACE_STEP,
            ),
        ),
    ),
)


# --- running a converter ----------------------------------------------------------------------------------------------


def trace(family: Family, spelling: Spelling) -> dict[str, list[str]]:
    """Author's name, of a module or of a tensor -> what its rows are, in order: names of diffusers'."""
    shapes = shapes_of(family.model, family.settings)
    names = spelling.names.replace("!", "")
    none = expand(" ".join(name[1:] for name in spelling.names.split() if name.startswith("!")))
    numbered = numbered_names(spelling)
    rules: dict[str, dict[int, list[str]]] = {}
    for name, pieces in _places(spelling, list(numbered), shapes).items():
        template, number = numbered[name]
        rules.setdefault(template, {})[number] = pieces
    lost = [name for name in expand(names) if rules.keys().isdisjoint(_tensors_of(name)) and name not in none]
    if lost:
        sys.exit(f"{spelling.source}: these names lead nowhere: {', '.join(lost)}")
    made = {key: rule for one in itertools.starmap(_general, rules.items()) for key, rule in one.items()}
    return {key: pieces for key, pieces in _by_module(made).items() if pieces != [key]}


def numbered_names(spelling: Spelling) -> dict[str, tuple[str, int]]:
    """Tensor -> (what it is called with `{}`, the number of its block)."""
    return {
        template.replace("{}", str(number)): (template, number)
        for name in expand(spelling.names.replace("!", ""))
        for template in _tensors_of(name)
        for number in range(spelling.blocks if "{}" in template else 1)
    }


def expand(names: str) -> list[str]:
    """`a.{b,c}.{}` -> a.b.{}, a.c.{}"""
    found: list[str] = []
    for name in names.split():
        parts = [part.split(",") if index % 2 else [part] for index, part in enumerate(re.split(r"\{([^}]+)\}", name))]
        found += ["".join(chosen) for chosen in itertools.product(*parts)]
    return found


def _tensors_of(name: str) -> list[str]:
    """A template names a module, or a tensor."""
    last = name.rpartition(".")[2]
    is_tensor = last in _PARAMETERS or last.startswith(("pos_", "positional_", "in_proj_")) or "table" in last
    return [name] if is_tensor else [f"{name}.weight", f"{name}.bias"]


def _places(spelling: Spelling, names: list[str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[str]]:
    rows = rows_of(spelling, names, shapes)
    pieces: dict[str, list[tuple[int, str]]] = {}
    for target, runs in _run(spelling, rows).items():
        at, have = 0, _rows(shapes[target]) if target in shapes else 0
        for name, start, stop in runs if have else ():
            part = "" if stop - start == have else f"#{_chunk(at, stop - start, have, target)}"
            pieces.setdefault(name, []).append((start, target + part))
            at += stop - start
        assert at == have, f"{target} has {have} rows, {at} come to it"
    return {name: _sized([target for _, target in sorted(found)], shapes) for name, found in pieces.items()}


def rows_of(spelling: Spelling, names: list[str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """How many rows the author's tensors have: as many as diffusers' that they are."""
    rows = {name: _fixed(name, spelling.rows) or _FIRST_ROWS for name in names}
    sizes: dict[str, float] = {}
    for target, runs in _run(spelling, rows).items():
        total = sum(stop - start for _, start, stop in runs)
        for name, start, stop in runs if target in shapes else ():
            sizes[name] = sizes.get(name, 0) + _rows(shapes[target]) * (stop - start) / total
    return rows | {name: _fixed(name, spelling.rows) or round(size) for name, size in sizes.items()}


def _fixed(name: str, rows: Mapping[str, int]) -> int | None:
    return next((size for part, size in rows.items() if part in name.split(".")), None)


def _rows(shape: tuple[int, ...]) -> int:
    return shape[0] if shape else 1


def _chunk(at: int, size: int, have: int, target: str) -> str:
    assert have % size == 0, f"{target}: {size} of {have} rows"
    assert at % size == 0, f"{target}: {size} of {have} rows"
    return f"{at // size}/{have // size}"


def _sized(pieces: list[str], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Where pieces differ in size, `=in` says of one that it has as many rows as its weight has columns."""
    if len({_rows(shapes[piece.partition("#")[0]]) for piece in pieces}) == 1:
        return pieces

    def is_square(piece: str) -> bool:
        shape = shapes[piece.rpartition(".")[0] + ".weight"]
        return shape[0] == shape[1]

    rest = {_rows(shapes[piece]) for piece in pieces if not is_square(piece)}
    assert len(rest) == 1, pieces
    return [f"{piece}=in" if is_square(piece) else piece for piece in pieces]


def _run(spelling: Spelling, rows: Mapping[str, int]) -> dict[str, list[tuple[str, int, int]]]:
    """Name of diffusers' -> the rows that come to it, [start, stop) of which tensor of the author's, in order."""
    numbers = {name: number for number, name in enumerate(rows)}
    names = list(numbers)
    tensors = {
        spelling.prefix + name: _column(number, rows[name], is_vector=not name.endswith("weight"))
        for name, number in numbers.items()
    }
    found: dict[str, list[tuple[str, int, int]]] = {}
    for target, tensor in spelling.convert(tensors).items():
        if tensor is None:
            continue
        runs: list[tuple[str, int, int]] = []
        for value in tensor.flatten().tolist():
            number, row = divmod(int(value), _MOST_ROWS)
            name = names[number]
            if runs and runs[-1][0] == name and runs[-1][2] == row:
                runs[-1] = (name, runs[-1][1], row + 1)
            else:
                runs.append((name, row, row + 1))
        found[target] = runs
    return found


def _column(number: int, rows: int, *, is_vector: bool) -> torch.Tensor:
    values = torch.arange(rows, dtype=torch.int64) + number * _MOST_ROWS
    return values if is_vector else values.reshape(rows, 1)


# --- rules ------------------------------------------------------------------------------------------------------------


def _general(template: str, by_number: Mapping[int, list[str]]) -> dict[str, list[str]]:
    """One rule for all blocks, and one for the last where it differs."""
    if "{}" not in template:
        return {template: by_number[0]}
    rules = [_without(pieces, number) for number, pieces in by_number.items()]
    first, last = rules[0], rules[-1]
    assert all(rule == first for rule in rules[:-1]), (template, rules)
    return {template: first} if last == first else {template: first, template.replace("{}", "{last}"): last}


def _without(pieces: Iterable[str], number: int) -> list[str]:
    return [re.sub(rf"(?<![^.]){number}(?![^.])", "{}", piece, count=1) for piece in pieces]


def _by_module(rules: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """`x.*` for `x.weight` and `x.bias`, where both go the same way or there is no bias."""
    made: dict[str, list[str]] = {}
    for key, pieces in rules.items():
        module, _, parameter = key.rpartition(".")
        bare = [_bare(piece, parameter) for piece in pieces]
        other = rules.get(f"{module}.{'bias' if parameter == 'weight' else 'weight'}")
        same = other is None or [_bare(piece, "bias" if parameter == "weight" else "weight") for piece in other] == bare
        if parameter in ("weight", "bias") and None not in bare and same and f"{module}.weight" in rules:
            made[f"{module}.*"] = [piece for piece in bare if piece]
        else:
            made[key] = pieces
    return dict(sorted(made.items()))


def _bare(piece: str, parameter: str) -> str | None:
    match = re.fullmatch(rf"(.+)\.{parameter}([#=].*)?", piece)
    return f"{match[1]}.*{match[2] or ''}" if match else None


# --- the classes ------------------------------------------------------------------------------------------------------


def shapes_of(model: str, settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    key = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in settings.items())
    return _shapes(model, key)


@cache
def _shapes(model: str, settings: tuple[tuple[str, Any], ...]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        if model == TEXT_ENCODER:
            made = transformers.CLIPTextModel(transformers.CLIPTextConfig(**dict(settings)))
        else:
            made = getattr(diffusers, model)(**dict(settings))
    shapes = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    if model == TEXT_ENCODER:  # transformers 5 leaves `text_model.` out
        return {f"text_model.{name.removeprefix('text_model.')}": shape for name, shape in shapes.items()}
    return shapes


def denoisers() -> list[str]:
    """All classes of diffusers' that load LoRA, and its other transformers and UNets."""
    names = []
    for name in dir(diffusers):
        value = getattr(diffusers, name, None)
        is_model = inspect.isclass(value) and issubclass(value, diffusers.ModelMixin) and "Autoencoder" not in name
        if is_model and (issubclass(value, PeftAdapterMixin) or "Transformer" in name or "UNet" in name):
            names.append(name)
    return sorted(names)


def own_names(model: str) -> list[str]:
    """Its modules that have weights, every number as `{}`."""
    settings = next((family.settings for family in FAMILIES if family.model == model), {})
    return sorted({_NUMBER.sub("{}", name.rpartition(".")[0] or name) for name in shapes_of(model, settings)})


def table() -> dict[str, Any]:
    families = {}
    for model in (TEXT_ENCODER, *denoisers()):
        try:
            names = own_names(model)
        except (TypeError, ValueError):
            continue  # can't be made of its defaults
        spelled = next((family for family in FAMILIES if family.model == model), None)
        renames: dict[str, list[str]] = {}
        for spelling in spelled.spellings if spelled else ():
            renames |= trace(spelled, spelling)
        families[model] = {"names": names, "renames": renames}
    return {"diffusers": diffusers.__version__, "families": families}


def written() -> str:
    value = table()
    parts = []
    for model, family in value["families"].items():
        names = ",\n".join(f"   {json.dumps(name)}" for name in family["names"])
        renames = ",\n".join(f"   {json.dumps(key)}: {json.dumps(rule)}" for key, rule in family["renames"].items())
        names, renames = (f"\n{text}\n  " if text else "" for text in (names, renames))
        parts.append(f' {json.dumps(model)}: {{\n  "names": [{names}],\n  "renames": {{{renames}}}\n }}')
    return f'{{\n"diffusers": {json.dumps(value["diffusers"])},\n"families": {{\n' + ",\n".join(parts) + "\n}\n}\n"


if __name__ == "__main__":
    TABLE.write_text(written())
