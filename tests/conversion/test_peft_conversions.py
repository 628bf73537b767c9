"""The normal form of a PEFT adapter is the same adapter to PEFT; MLX and back is the same adapter, bit for bit."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from corpus.peft_corpus import CASES, Case, lora, make_base, write, write_base
from lorahub.adapters.base_model import BaseLayout, read_base
from lorahub.adapters.check import check
from lorahub.adapters.files import BytesFiles, FolderFiles
from lorahub.adapters.reader import read_adapter
from lorahub.conversion import TARGETS, NotConvertible, convert
from safetensors.numpy import load
from torch import nn

pytestmark = pytest.mark.xdist_group("peft-corpus")

MIXED = {
    "mixed-embedding": Case(
        "llama",
        lambda: lora(target_modules=["q_proj", "embed_tokens"], rank_pattern={"q_proj": 2}, alpha_pattern={"k": 3}),
    ),
    "mixed-experts": Case(
        "moe",
        lambda: lora(
            target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"], rank_pattern={"q_proj": 6}
        ),
    ),
    "mixed-dora": Case("llama", lambda: lora(use_dora=True, use_rslora=True, rank_pattern={"v_proj": 7})),
    "mixed-conv": Case("conv", lambda: lora(target_modules=["first", "second", "head"], rank_pattern={"first": 3})),
}  # fmt: skip
NORMAL = [
    name for name, case in CASES.items() if case.method == "lora" and name not in ("pissa", "olora", "lora-replicated")
]
ALL = CASES | MIXED


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> BaseLayout:
    return read_base(FolderFiles(write_base("llama", tmp_path_factory.mktemp("base"))), name="acme/llama")


def files_of(name: str, folder: Path) -> FolderFiles:
    write(ALL[name], folder)
    return FolderFiles(folder)


def unpack(contents: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir()
    for path, content in contents.items():
        (folder / path).write_bytes(content)
    return folder


def loaded(name: str, folder: Path) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        model = peft.PeftModel.from_pretrained(make_base(ALL[name].base), folder)
    return model.eval()


def outputs(model: nn.Module, name: str) -> torch.Tensor:
    with torch.no_grad():
        if ALL[name].base == "conv":
            return model(torch.rand((2, 3, 5, 5), generator=torch.Generator().manual_seed(2)))
        return model(input_ids=torch.arange(12).reshape(2, 6)).logits


@pytest.mark.parametrize("name", [*NORMAL, *MIXED])
def test_the_normal_form_is_the_same_adapter(name: str, tmp_path: Path) -> None:
    files = files_of(name, tmp_path / "own")

    made = convert(files, "peft-normalized")

    config = json.loads(made["adapter_config.json"])
    ranks = {update.rank for update in read_adapter(BytesFiles(made)).updates}
    assert ranks == {config["r"]} == {config["lora_alpha"]}
    assert (config["use_rslora"], config["rank_pattern"], config["alpha_pattern"]) == (False, {}, {})
    assert not any("base_layer.weight" in tensor for tensor in load(made["adapter_model.safetensors"]))
    before, after = loaded(name, tmp_path / "own"), loaded(name, unpack(made, tmp_path / "normal"))
    torch.testing.assert_close(outputs(after, name), outputs(before, name), rtol=0, atol=1e-6)
    if name != "lora-tied-head":  # PEFT won't merge it
        merged, expected = (model.merge_and_unload().state_dict() for model in (after, before))
        torch.testing.assert_close(merged, expected, rtol=0, atol=1e-6)


def test_the_normal_form_keeps_what_else_the_configuration_says(tmp_path: Path) -> None:
    files = files_of("lora-patterns", tmp_path / "own")
    own = json.loads((tmp_path / "own" / "adapter_config.json").read_text())

    made = json.loads(convert(files, "peft-normalized")["adapter_config.json"])

    changed = {key for key in own if own[key] != made[key]}
    assert made.keys() == own.keys()
    assert changed == {"r", "lora_alpha", "rank_pattern", "alpha_pattern"}


def test_a_normal_adapter_keeps_its_dtype_and_bits(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write(Case("llama", lambda: lora(r=4, lora_alpha=4)), tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(weights).items()}
    save_file(halves, weights, {"format": "pt"})

    made = convert(FolderFiles(tmp_path), "peft-normalized")
    weights.write_bytes(made["adapter_model.safetensors"])

    again = load_file(weights)
    assert all(torch.equal(again[name], halves[name]) and again[name].dtype == torch.bfloat16 for name in halves)


def test_a_folded_scale_makes_bfloat16_float32(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write(Case("llama", lambda: lora(r=4, lora_alpha=3)), tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(weights).items()}
    save_file(halves, weights, {"format": "pt"})

    weights.write_bytes(convert(FolderFiles(tmp_path), "peft-normalized")["adapter_model.safetensors"])

    again = load_file(weights)
    for name, half in halves.items():
        expected = half.float() * 0.75 if "lora_B" in name else half
        assert torch.equal(again[name], expected), name
        assert again[name].dtype == expected.dtype


def test_a_resized_vocabulary_is_no_copy_of_the_base(llama: BaseLayout, tmp_path: Path) -> None:
    files = files_of("lora-embedding", tmp_path)
    larger = BaseLayout(
        {name: type(t)(t.dtype, (70, 16)) if t.shape == (64, 16) else t for name, t in llama.tensors.items()}
    )

    assert convert(files, "peft-normalized", llama)
    with pytest.raises(NotConvertible, match=r"embed_tokens.base_layer.weight is \[64, 16\], the base has \[70, 16\]"):
        convert(files, "peft-normalized", larger)


# --- MLX --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["lora", "lora-layers", "lora-exclude", "rslora", "dora", "lora-patterns", "mixed-dora"]
)
def test_mlx_has_the_same_updates(name: str, llama: BaseLayout, tmp_path: Path) -> None:
    files = files_of(name, tmp_path / "own")

    made = convert(files, "mlx", llama)

    parameters = json.loads(made["adapter_config.json"])["lora_parameters"]
    tensors = load(made["adapters.safetensors"])
    for module, delta in deltas(files).items():
        a, b = tensors[f"{module}.lora_a"], tensors[f"{module}.lora_b"]
        assert a.shape[1] == b.shape[0] == parameters["rank"]
        np.testing.assert_allclose(parameters["scale"] * (a @ b).T, delta, rtol=1e-5, atol=1e-9)
        assert module.split(".", 3)[3] in parameters["keys"]
    assert check(read_adapter(BytesFiles(made)), llama).verdict == "fits"


def test_mlx_adapts_the_last_layers_only(llama: BaseLayout, tmp_path: Path) -> None:
    files = files_of("lora-expression", tmp_path)

    with_base, without = (json.loads(convert(files, "mlx", base)["adapter_config.json"]) for base in (llama, None))

    assert (with_base["num_layers"], without["num_layers"]) == (2, -1)


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "lora-patterns"])
def test_mlx_to_peft_to_mlx_is_the_same(name: str, llama: BaseLayout, tmp_path: Path) -> None:
    first = convert(files_of(name, tmp_path / "own"), "mlx", llama)

    back = convert(BytesFiles(first), "peft", llama)
    second = convert(BytesFiles(back), "mlx", llama)

    assert second == first
    assert json.loads(back["adapter_config.json"])["target_modules"] == ["q_proj", "v_proj"]
    ours, theirs = loaded(name, unpack(back, tmp_path / "peft")), loaded(name, tmp_path / "own")
    torch.testing.assert_close(outputs(ours, name), outputs(theirs, name), rtol=0, atol=1e-6)


def test_mlx_has_a_normal_form_in_peft(tmp_path: Path) -> None:
    mlx = convert(files_of("lora", tmp_path / "own"), "mlx")

    made = convert(BytesFiles(mlx), "peft-normalized")

    again = loaded("lora", unpack(made, tmp_path / "peft"))
    torch.testing.assert_close(outputs(again, "lora"), outputs(loaded("lora", tmp_path / "own"), "lora"))


def deltas(files: FolderFiles) -> dict[str, Any]:
    """ΔW of each module, by the formula: scale · lora_B · lora_A."""
    tensors = load((files.place / "adapter_model.safetensors").read_bytes())
    return {
        update.module: update.scale * tensors[update.tensors["up"].name] @ tensors[update.tensors["down"].name]
        for update in read_adapter(files).updates
    }


# --- all targets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["peft", "peft-normalized", "mlx", "gguf"])
def test_the_same_input_gives_the_same_bytes(target: Any, llama: BaseLayout, tmp_path: Path) -> None:
    files = files_of("lora-patterns", tmp_path)

    assert convert(files, target, llama) == convert(files, target, llama)


def test_its_own_format_is_handed_back(tmp_path: Path) -> None:
    files = files_of("lora-saved-modules", tmp_path)

    made = convert(files, "peft")

    assert made == {
        name: (tmp_path / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")
    }


def test_every_target_is_known() -> None:
    assert TARGETS == ("peft", "peft-normalized", "diffusers", "kohya", "gguf", "mlx")
    with pytest.raises(NotConvertible, match="no target 'onnx'"):
        convert(BytesFiles({}), "onnx")  # type: ignore[arg-type]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target", "why"),
    [
        ("lokr", "gguf", "the method is lokr; only LoRA and DoRA convert"),
        ("loha", "mlx", "the method is loha"),
        ("ia3", "peft-normalized", "the method is ia3; only LoRA has a normal form"),
        ("prompt", "mlx", "the method is prompt_tuning"),
        ("dora", "gguf", r"model.layers.0.self_attn.q_proj has DoRA's magnitudes; llama.cpp has no place for it"),
        ("lora-saved-modules", "mlx", "the adapter has modules_to_save, first "),
        ("lora-saved-modules", "gguf", "the adapter has modules_to_save, first "),
        ("lora-token-rows", "gguf", "the adapter has trainable_token_indices"),
        ("lora-bias-all", "gguf", "the adapter has biases"),
        ("lora-up-bias", "mlx", r"head has a bias of lora_B \(lora_bias\); MLX"),
        ("lora-conv", "mlx", "first has a convolution; MLX has no place for it"),
        ("lora-embedding", "mlx", "an update to an embedding"),
        ("lora-embedding", "gguf", "an update to an embedding"),
        ("lora-head", "gguf", "lm_head is adapted: llama.cpp finds updates by tensor"),
        ("lora-head", "mlx", "lm_head is outside model.layers"),
        ("lora-gpt2", "mlx", "transformer.h.0.attn.c_attn is outside model.layers"),
        ("lora-experts", "mlx", "is a stack of experts"),
        ("lora-replicated", "mlx", "layer_replication"),
        ("pissa", "peft-normalized", "init_lora_weights=pissa: PEFT changes the base"),
        ("olora", "mlx", "init_lora_weights=olora: PEFT changes the base"),
        ("lora", "diffusers", r"self_attn.q_proj can't be named without the base"),
    ],
)
def test_what_is_not_exact_is_refused(name: str, target: Any, why: str, llama: BaseLayout, tmp_path: Path) -> None:
    files = files_of(name, tmp_path)

    with pytest.raises(NotConvertible, match=why) as refusal:
        convert(files, target, llama if target == "gguf" else None)

    assert refusal.value.hint
    assert (refusal.value.status, refusal.value.exit_code) == (422, 7)


def test_a_language_model_is_no_image_model(llama: BaseLayout, tmp_path: Path) -> None:
    with pytest.raises(NotConvertible, match="the base is a language model"):
        convert(files_of("lora", tmp_path / "llama"), "kohya", llama)
    with pytest.raises(NotConvertible, match=r"transformer.h.0.attn.c_attn can't be named without the base"):
        convert(files_of("lora-gpt2", tmp_path / "gpt2"), "diffusers")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora: its factors are stacks of diagonal blocks"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens: it acts on activations"),
        ({"use_qalora": True}, "use_qalora: it acts on activations"),
        ({"kasa_config": {"x": 1}}, "kasa_config: PEFT changes the base"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"r": 5}, "another rank than the configuration says"),
    ],
)
def test_settings_that_change_the_arithmetic_are_refused(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    files = files_of("lora", tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))

    with pytest.raises(NotConvertible, match=why):
        convert(files_again(files), "peft-normalized")


def files_again(files: FolderFiles) -> FolderFiles:
    return FolderFiles(files.place)


def test_a_damaged_adapter_is_refused(tmp_path: Path) -> None:
    files = files_of("lora", tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])

    with pytest.raises(NotConvertible, match=r"adapter_model.safetensors: "):
        convert(files_again(files), "mlx")


def test_a_scale_beyond_float32_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write(CASES["lora"], tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor * 1e38 for name, tensor in load_file(weights).items()}, weights)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 1e6}))

    with pytest.raises(NotConvertible, match="beyond F32"):
        convert(FolderFiles(tmp_path), "peft-normalized")
