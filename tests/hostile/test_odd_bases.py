"""Bases whose names promise something that their shapes and settings don't keep: read and checked, or refused."""

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import lora_config, write_adapter
from lorahub.adapters.base_model import read_base
from lorahub.adapters.base_tensor import BaseTensor
from lorahub.adapters.check import check
from lorahub.adapters.files import BytesFiles, FolderFiles
from lorahub.adapters.gguf_base import known_names, standing_for
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.reader import read_adapter
from lorahub.errors import InvalidBaseModel
from safetensors.numpy import save

SHAPES = ((), (4,), (4, 8), (0, 8), (3, 4, 8), (5, 4, 8), (2, 3, 4, 8), (7, 3))
LAYER = "model.layers.0"
PROMISING = (
    *(f"{LAYER}.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj", "up_proj", "w13_weight")),
    *(f"{LAYER}.mlp.experts.{n}.{name}.weight" for n in (0, 1) for name in ("gate_proj", "up_proj", "down_proj")),
    *(f"{LAYER}.block_sparse_moe.experts.{n}.{name}.weight" for n in (0, 1) for name in ("w1", "w2", "w3")),
    *(f"{LAYER}.moe.{name}_proj.weight" for name in ("gate", "up", "down")),
    *("encoder.layers.0.attn.Wqkv.weight", f"{LAYER}.self_attn.in_proj_weight", "layers.0.attn.qkv.weight"),
    *("vision_tower.encoder.blocks.0.wqkv.weight", "model.transformer.blocks.0.self_attn.att_proj.weight"),
    *(f"{LAYER}.self_attn.{name}_proj.weight" for name in "qkvo"),
    *("lm_head.weight", "model.embed_tokens.weight", "double_blocks.0.img_attn.qkv.weight"),
    *("transformer_blocks.0.attn.to_q.weight", "single_transformer_blocks.0.proj_out.weight"),
)
CLASSES = {
    "LlamaForCausalLM": "llama",
    "MixtralForCausalLM": "mixtral",
    "GptOssForCausalLM": "gpt_oss",
    "AriaForConditionalGeneration": "aria",
    "Ernie4_5_VLMoeForConditionalGeneration": "ernie4_5_vl_moe",
    "Inkling2ForCausalLM": "inkling2",
    "KimiLinearForCausalLM": "kimi_linear",
    "Kimi_K25ForConditionalGeneration": "kimi_k25",
    "Molmo2ForConditionalGeneration": "molmo2",
    "NomicBertForMaskedLM": "nomic_bert",
    "Qwen2VLForConditionalGeneration": "qwen2_vl",
    "FluxTransformer2DModel": "flux",
}


def files(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> BytesFiles:
    return BytesFiles({"config.json": json.dumps(config).encode(), "model.safetensors": save(dict(tensors))})


def shapes(names: tuple[str, ...]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Each shape for all of them, and some mixtures."""
    chance = random.Random(0)
    yield from (dict.fromkeys(names, shape) for shape in SHAPES)
    for _ in range(4):
        yield {name: chance.choice(SHAPES) for name in names}


@pytest.fixture
def adapters(tmp_path: Path) -> list[FolderFiles]:
    """Of two layers of a Llama, and of experts by all their names."""
    experts = write_adapter(tmp_path / "experts", base="acme/base", rank=4)
    modules = [f"{LAYER}.mlp.experts", *(f"{LAYER}.mlp.experts.{n}.up_proj" for n in (1, 7)), f"{LAYER}.mlp.gate"]
    tensors = {
        f"base_model.model.{module}.lora_{side}.weight": np.ones(shape, np.float32)
        for module in modules
        for side, shape in (("A", (4, 8)), ("B", (4, 4)))
    }
    (experts / "adapter_model.safetensors").write_bytes(save(tensors))
    said = {**lora_config(base="acme/base", rank=4), "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
    (experts / "adapter_config.json").write_text(json.dumps(said))
    return [FolderFiles(write_adapter(tmp_path / "llama", base="acme/base", rank=4)), FolderFiles(experts)]


@pytest.mark.parametrize("name", CLASSES)
def test_shapes_that_the_names_do_not_promise(name: str, adapters: list[FolderFiles]) -> None:
    read = [read_adapter(one) for one in adapters]
    for shaped in shapes(PROMISING):
        tensors = {tensor: np.ones(shape, np.float16) for tensor, shape in shaped.items()}
        config = {"architectures": [name], "model_type": CLASSES[name], "_class_name": name}
        base = read_base(files(config, tensors))
        for adapter in read:
            check(adapter, base)


ENDINGS = (
    *("lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector", "lora_embedding_A", "lora_embedding_B"),
    *("lora_E", "base_layer.weight", "base_layer.lora_A.weight", "base_layer.lora_B.weight", "weight", "bias"),
    *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1", "lokr_w1_a", "lokr_w1_b"),
    *(
        "lokr_w2",
        "lokr_w2_a",
        "lokr_w2_b",
        "lokr_t2",
        "ia3_l",
        "vera_lambda_b",
        "vera_lambda_d",
        "oft_R.weight",
        "boft_R",
    ),
    *("boft_s", "hra_u", "hira_A", "hira_B", "fourierft_spectrum", "shira_weight", "shira_indices"),
    *("ln_tuning_layers.weight", "token_adapter.trainable_tokens_delta", "modules_to_save.weight"),
    *("original_module.weight", "lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale", "diff"),
    *("diff_b", "w_norm", "b_norm", "on_input", "oft_blocks", "rescale"),
)
MODULES = (f"{LAYER}.self_attn.q_proj", f"{LAYER}.mlp.experts", "model.embed_tokens", "lm_head")
KINDS = (
    "LORA",
    "ADALORA",
    "LOHA",
    "LOKR",
    "IA3",
    "VERA",
    "OFT",
    "BOFT",
    "HRA",
    "HIRA",
    "LN_TUNING",
    "TRAINABLE_TOKENS",
)


@pytest.mark.parametrize("kind", [*KINDS, "kohya", "diffusers"])
def test_adapters_whose_tensors_have_any_shape(kind: str) -> None:
    tensors = {f"{module}.weight": np.ones((16, 16), np.float16) for module in MODULES if "experts" not in module}
    stack = {f"{LAYER}.mlp.experts.gate_up_proj": np.ones((2, 8, 16), np.float16)}
    base = read_base(files({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}, tensors | stack))
    start = {"kohya": "lora_unet_", "diffusers": "transformer."}.get(kind, "base_model.model.")
    said = {**lora_config(base="acme/base", rank=4), "peft_type": kind, "target_parameters": ["experts.gate_up_proj"]}
    config = {} if kind in ("kohya", "diffusers") else {"adapter_config.json": json.dumps(said).encode()}
    for shaped in shapes(ENDINGS):
        for module in MODULES:
            own = module.replace(".", "_") if kind == "kohya" else module
            held = {f"{start}{own}.{end}": np.ones(shape, np.float16) for end, shape in shaped.items()}
            adapter = read_adapter(BytesFiles({**config, "adapter_model.safetensors": save(held)}))
            report = check(adapter, base)
            assert report.coverage.used + report.coverage.named == report.coverage.of == len(held)


ODD = (5, [], ["x", 3], {}, None, {"model_type": []}, {"model_type": {}}, {"model_type": "llava", "text_config": 5})


@pytest.mark.parametrize("key", ["architectures", "model_type", "text_config", "vision_config", "quantization_config"])
def test_settings_that_are_something_else(key: str, adapters: list[FolderFiles]) -> None:
    plain = {f"{LAYER}.self_attn.q_proj.weight": np.ones((16, 16), np.float16)}
    for value in ODD:
        for named in ("LlamaForCausalLM", "LlavaForConditionalGeneration"):
            base = read_base(files({"architectures": [named], key: value}, plain))
            check(read_adapter(adapters[0]), base)


PACKED = {
    "GPTQ": (("qweight", np.int32), ("scales", np.float16), ("qzeros", np.int32), ("g_idx", np.int32)),
    "8 bits": (("weight", np.int8), ("SCB", np.float32)),
    "compressed": (("weight_packed", np.int32), ("weight_scale", np.float16), ("weight_shape", np.int64)),
    "NVFP4": (("weight", np.uint8), ("weight_scale_2", np.float32)),
    "MXFP4": (("w_blocks", np.uint8), ("w_scales", np.uint8)),
    "4 bits": (("weight", np.uint8), ("weight.absmax", np.float32), ("weight.quant_state.bitsandbytes__nf4", np.uint8)),
}


@pytest.mark.parametrize("way", PACKED)
def test_packed_tensors_of_any_shape(way: str) -> None:
    for bits in (4, 0, -1, 2**40, None, "4", []):
        for shaped in shapes(tuple(leaf for leaf, _ in PACKED[way])):
            dtypes = dict(PACKED[way])
            tensors = {f"{LAYER}.x.{leaf}": np.ones(shape, dtypes[leaf]) for leaf, shape in shaped.items()}
            read_base(files({"quantization_config": {"quant_method": "gptq", "bits": bits}}, tensors))


def test_tensors_of_a_gguf_file_of_any_shape() -> None:
    for architecture, variants in known_names().items():
        names = {
            name.replace("{}", "0")
            for one in variants
            for name in (*one.names, *(part for parts in one.joined.values() for part in parts))
        }
        every = tuple(sorted(name if name.endswith(("weight", "bias")) else f"{name}.weight" for name in names))
        for shaped in shapes((*every, "token_embd.weight")):
            stored = {name: BaseTensor("F16", shape) for name, shape in shaped.items()}
            standing_for({"general.architecture": architecture, f"{architecture}.block_count": -5}, stored)


def test_a_stack_is_not_taken_for_as_high_as_its_header_says() -> None:
    """Or a file of megabytes would be told apart into millions of experts."""
    high = BaseTensor("F16", (LIMITS.base_tensors + 1, 1, 1))
    with pytest.raises(InvalidBaseModel, match=f"more than {LIMITS.base_tensors} tensors"):
        standing_for({"general.architecture": "qwen3moe"}, {"blk.0.ffn_gate_exps.weight": high})
