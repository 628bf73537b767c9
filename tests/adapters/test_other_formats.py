"""MLX, AdapterHub, loralib, torchtune and lorahub's own forms: read right, and each fault found by its rule."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from builders import safetensors_bytes
from lorahub.adapters.adapter import ROLES, Adapter, PartKind
from lorahub.adapters.base_model import BaseLayout, BaseTensor
from lorahub.adapters.check import Report, check
from lorahub.adapters.files import BytesFiles
from lorahub.adapters.reader import read_adapter

Arrays = dict[str, np.ndarray]

WIDTH, KEYS, INNER, LAYERS, RANK = 16, 8, 24, 2, 4


def base() -> BaseLayout:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (64, WIDTH), "lm_head.weight": (64, WIDTH)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.self_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{prefix}.self_attn.q_proj.bias": (WIDTH,),
            f"{prefix}.self_attn.v_proj.weight": (KEYS, WIDTH),
            f"{prefix}.self_attn.v_proj.bias": (KEYS,),
            f"{prefix}.self_attn.o_proj.weight": (WIDTH, WIDTH),
            f"{prefix}.mlp.down_proj.weight": (WIDTH, INNER),
        }
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH}
    tensors = {name: BaseTensor("F32", shape) for name, shape in shapes.items()}
    return BaseLayout(tensors, config, "acme/base", names=frozenset(["acme/base"]))


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def read(
    arrays: Arrays, name: str, config: Mapping[str, Any] | None, metadata: Mapping[str, str] | None = None
) -> Adapter:
    files = {name: safetensors_bytes(arrays, metadata), "README.md": b"---\nbase_model: acme/base\n---\n"}
    if config is not None:
        files["adapter_config.json"] = json.dumps(config).encode()
    return read_adapter(BytesFiles(files))


def rules(report: Report) -> list[str]:
    return sorted(found.rule for found in report.findings)


def modules(*leaves: str) -> list[str]:
    return [f"model.layers.{layer}.{leaf}" for layer in range(LAYERS) for leaf in leaves]


# --- the formats ------------------------------------------------------------------------------------------------------


def mlx() -> tuple[Arrays, str, dict[str, Any] | None, None]:
    arrays: Arrays = {}
    for module in modules("self_attn.q_proj"):
        arrays |= {f"{module}.lora_a": ones(WIDTH, RANK), f"{module}.lora_b": ones(RANK, WIDTH)}
    for module in modules("self_attn.v_proj"):
        arrays |= {f"{module}.lora_a": ones(WIDTH, RANK), f"{module}.lora_b": ones(RANK, KEYS)}
    config = {
        "fine_tune_type": "lora",
        "num_layers": 2,
        "lora_parameters": {"rank": RANK, "scale": 2.5, "dropout": 0.0},
    }
    return arrays, "adapters.safetensors", config, None


def adapterhub_lora() -> tuple[Arrays, str, dict[str, Any] | None, None]:
    arrays: Arrays = {}
    for module in modules("self_attn.q_proj"):
        arrays |= {f"{module}.loras.mine.lora_A": ones(RANK, WIDTH), f"{module}.loras.mine.lora_B": ones(WIDTH, RANK)}
    return arrays, "adapter.safetensors", _hub({"architecture": "lora", "r": RANK, "alpha": 10}), None


def _hub(inner: dict[str, Any]) -> dict[str, Any]:
    return {
        "config": inner, "hidden_size": WIDTH, "model_class": "LlamaModel", "model_type": "llama",
        "model_name": "acme/base", "name": "mine", "version": "adapters.1.3.0",
    }  # fmt: skip


def loralib() -> tuple[Arrays, str, None, dict[str, str]]:
    arrays: Arrays = {}
    for module in modules("self_attn.q_proj"):
        arrays |= {f"{module}.lora_A": ones(RANK, WIDTH), f"{module}.lora_B": ones(WIDTH, RANK)}
    return arrays, "lora.safetensors", None, {"lorahub.scale": "2.5"}


def torchtune() -> tuple[Arrays, str, None, dict[str, str]]:
    arrays: Arrays = {}
    for layer in range(LAYERS):
        for leaf, out, width in (
            ("attn.q_proj", WIDTH, WIDTH),
            ("attn.output_proj", WIDTH, WIDTH),
            ("mlp.w2", WIDTH, INNER),
        ):
            name = f"layers.{layer}.{leaf}"
            arrays |= {f"{name}.lora_a.weight": ones(RANK, width), f"{name}.lora_b.weight": ones(out, RANK)}
    return arrays, "adapter_0.safetensors", None, {"lorahub.scale": "2.5"}


Made = tuple[Arrays, str, dict[str, Any] | None, dict[str, str] | None]
FORMATS: dict[str, tuple[Callable[[], Made], list[str]]] = {
    "mlx": (mlx, modules("self_attn.q_proj", "self_attn.v_proj")),
    "adapterhub": (adapterhub_lora, modules("self_attn.q_proj")),
    "loralib": (loralib, modules("self_attn.q_proj")),
    "torchtune": (torchtune, modules("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")),
}


@pytest.mark.parametrize("name", FORMATS)
def test_module_rank_scale_and_shape(name: str) -> None:
    make, wanted = FORMATS[name]
    adapter = read(*make())
    report = check(adapter, base())
    assert (adapter.format, adapter.method) == (name, "lora")
    assert (report.verdict, rules(report), report.matched) == ("fits", [], len(wanted))
    assert sorted(weight.name for _, weight in report.bound) == sorted(f"{module}.weight" for module in wanted)
    assert {(u.rank, u.scale) for u in adapter.updates} == {(RANK, 2.5)}


@pytest.mark.parametrize("name", FORMATS)
def test_factors_are_called_and_lie_alike_in_every_format(name: str) -> None:
    for update in read(*FORMATS[name][0]()).updates:
        down, up = (update.tensors[role] for role in ("down", "up"))
        assert (down.shape, up.shape) == ((RANK, update.shape[1]), (update.shape[0], RANK))
        assert update.tensors.keys() <= ROLES.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_half_an_update_is_missing(name: str) -> None:
    arrays, *rest = FORMATS[name][0]()
    del arrays[next(iter(arrays))]
    assert rules(check(read(arrays, *rest), base())) == ["LH208"]


@pytest.mark.parametrize("name", FORMATS)
def test_the_ranks_of_the_factors_differ(name: str) -> None:
    arrays, *rest = FORMATS[name][0]()
    first = next(iter(arrays))
    shape = list(arrays[first].shape)
    shape[shape.index(RANK)] = RANK + 1
    arrays[first] = ones(*shape)
    assert rules(check(read(arrays, *rest), base())) == ["LH220"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_width_is_wrong(name: str) -> None:
    arrays, *rest = FORMATS[name][0]()
    first = next(iter(arrays))
    arrays[first] = ones(*(size if size == RANK else size + 4 for size in arrays[first].shape))
    assert rules(check(read(arrays, *rest), base())) == ["LH202"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_module_is_not_in_the_base(name: str) -> None:
    arrays, *rest = FORMATS[name][0]()
    renamed = {key.replace("layers.0.", "layers.0.extra."): array for key, array in arrays.items()}
    assert rules(check(read(renamed, *rest), base())) == ["LH201"]


def test_mlx_says_another_rank() -> None:
    arrays, name, config, _ = mlx()
    assert config is not None
    config["lora_parameters"]["rank"] = 8
    assert rules(check(read(arrays, name, config), base())) == ["LH203"]


def test_mlx_says_dora_and_has_none() -> None:
    arrays, name, config, _ = mlx()
    assert config is not None
    config["fine_tune_type"] = "dora"
    assert rules(check(read(arrays, name, config), base())) == ["LH212"]


# --- bottlenecks and biases -------------------------------------------------------------------------------------------


def houlsby(width: int = WIDTH) -> Arrays:
    arrays: Arrays = {}
    for layer in range(LAYERS):
        for place in ("output_adapters", "attention_adapters"):
            name = f"model.layers.{layer}.{place}.adapters.mine"
            arrays |= {
                f"{name}.adapter_down.0.weight": ones(4, width),
                f"{name}.adapter_down.0.bias": ones(4),
                f"{name}.adapter_up.weight": ones(width, 4),
                f"{name}.adapter_up.bias": ones(width),
            }
    return arrays


def test_bottlenecks_of_adapterhub_are_parts_that_cannot_be_merged() -> None:
    adapter = read(houlsby(), "adapter.safetensors", _hub({"mh_adapter": True, "output_adapter": True}))
    report = check(adapter, base())
    assert {part.kind for part in adapter.parts} == {PartKind.BOTTLENECK}
    assert (len(adapter.parts), adapter.is_mergeable) == (4, False)
    assert (report.verdict, rules(report)) == ("fits", [])


def test_a_bottleneck_of_another_width_does_not_fit() -> None:
    config = _hub({"output_adapter": True}) | {"hidden_size": 20}
    report = check(read(houlsby(20), "adapter.safetensors", config), base())
    assert set(rules(report)) == {"LH202"}


def test_ia3_of_adapterhub_has_its_axis() -> None:
    arrays = {f"{module}.loras.mine.lora_B": ones(KEYS, 1) for module in modules("self_attn.v_proj")}
    adapter = read(
        arrays, "adapter.safetensors", _hub({"architecture": "lora", "composition_mode": "scale", "r": 1, "alpha": 1})
    )
    assert [u.method for u in adapter.updates] == ["ia3", "ia3"]
    assert check(adapter, base()).verdict == "fits"


def test_our_own_bottleneck_form() -> None:
    arrays = {}
    for module in modules("mlp"):
        arrays |= {
            f"{module}.down.weight": ones(4, WIDTH),
            f"{module}.up.weight": ones(WIDTH, 4),
            f"{module}.up.bias": ones(WIDTH),
        }
    metadata = {"lorahub.method": "bottleneck", "lorahub.base": "acme/base"}
    adapter = read(arrays, "adapter.safetensors", None, metadata)
    assert (adapter.format, adapter.method, len(adapter.parts)) == ("lorahub", "bottleneck", 2)
    assert check(adapter, base()).verdict == "fits"
    elsewhere = {name.replace("mlp", "ffn"): array for name, array in arrays.items()}
    assert rules(check(read(elsewhere, "adapter.safetensors", None, metadata), base())) == ["LH201"]
    del arrays["model.layers.0.mlp.up.weight"]
    assert rules(check(read(arrays, "adapter.safetensors", None, metadata), base())) == ["LH208"]


@pytest.mark.parametrize(("mode", "kind"), [("replace", PartKind.BIAS), ("delta", PartKind.BIAS_DELTA)])
def test_biases_alone(mode: str, kind: PartKind) -> None:
    arrays = {f"{module}.bias": ones(WIDTH) for module in modules("self_attn.q_proj")}
    metadata = {"lorahub.method": "bitfit", "lorahub.bias": mode, "lorahub.base": "acme/base"}
    adapter = read(arrays, "adapter.safetensors", None, metadata)
    assert {part.kind for part in adapter.parts} == {kind}
    assert (check(adapter, base()).verdict, adapter.is_mergeable) == ("fits", True)
    partial = check(adapter, base()).findings
    assert [found.message for found in partial if found.rule == "LH222"] == [
        "4 of 8 modules have a bias, not model.layers.0.self_attn.o_proj"
    ]
    arrays["model.layers.0.self_attn.v_proj.bias"] = ones(WIDTH)
    assert rules(check(read(arrays, "adapter.safetensors", None, metadata), base())) == ["LH202", "LH222"]


def test_a_form_that_nobody_knows_is_stored_and_undecided() -> None:
    adapter = read({"strange.tensor": ones(2, 2)}, "x.safetensors", None)
    report = check(adapter, base())
    assert (report.verdict, rules(report)) == ("undecided", ["LH306"])
