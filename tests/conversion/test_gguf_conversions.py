"""GGUF adapters as llama.cpp's own reader reads them: ΔW of PEFT, rows where llama.cpp has them, the right alpha."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import peft
import pytest
import torch
import transformers
from corpus.peft_corpus import CASES, Case, lora, write, write_base
from gguf.tensor_mapping import get_tensor_name_map
from lorahub.adapters.base_model import BaseLayout, read_base
from lorahub.adapters.check import check
from lorahub.adapters.files import BytesFiles, FolderFiles
from lorahub.adapters.reader import read_adapter
from lorahub.conversion import NotConvertible, convert
from lorahub.conversion.gguf import ARCHITECTURES
from peft.tuners.tuners_utils import BaseTunerLayer

pytestmark = pytest.mark.xdist_group("peft-corpus")

Q_AND_K = {"target_modules": ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"]}
ADAPTERS: dict[str, Case] = {
    "one scale": Case("llama", lambda: lora(**Q_AND_K)),
    "rslora": Case("llama", lambda: lora(use_rslora=True, **Q_AND_K)),
    "one alpha, two ranks": Case("llama", lambda: lora(rank_pattern={"k_proj": 2}, **Q_AND_K)),
    "two scales, one rank": Case("llama", lambda: lora(alpha_pattern={"k_proj": 3}, **Q_AND_K)),
    "two scales, two ranks": Case(
        "llama", lambda: lora(use_rslora=True, rank_pattern={"k_proj": 6, "o_proj": 3}, **Q_AND_K)
    ),
    "gpt2": CASES["lora-gpt2"],
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], BaseLayout]:
    root = tmp_path_factory.mktemp("bases")
    made: dict[str, BaseLayout] = {}

    def base(name: str) -> BaseLayout:
        if name not in made:
            made[name] = read_base(FolderFiles(write_base(name, root / name)), name=f"acme/{name}")
        return made[name]

    return base


def read(made: dict[str, bytes], folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    assert list(made) == ["adapter.gguf"]
    path = folder / "adapter.gguf"
    path.write_bytes(made["adapter.gguf"])
    reader = gguf.GGUFReader(path)
    values = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return values, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def deltas(model: peft.PeftModel) -> dict[str, np.ndarray]:
    """ΔW by PEFT itself, (out, in)."""
    return {
        name: layer.get_delta_weight("default").detach().numpy()
        for name, layer in model.base_model.model.named_modules()
        if isinstance(layer, BaseTunerLayer)
    }


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Transformers rotates row i of a head with row i + half, llama.cpp row 2i with row 2i + 1."""
    size = weight.shape[0] // heads
    order = [head * size + i + side * size // 2 for head in range(heads) for i in range(size // 2) for side in (0, 1)]
    return weight[order]


@pytest.mark.parametrize("name", ADAPTERS)
def test_llama_cpp_has_the_updates_of_peft(name: str, bases: Callable[[str], BaseLayout], tmp_path: Path) -> None:
    case = ADAPTERS[name]
    model = write(case, tmp_path / "own")
    base = bases(case.base)

    values, tensors = read(convert(FolderFiles(tmp_path / "own"), "gguf", base), tmp_path)

    assert values["general.type"] == "adapter"
    assert values["adapter.type"] == "lora"
    assert values["general.architecture"] == case.base
    assert values["general.base_model.0.name"] == f"acme/{case.base}"
    names = get_tensor_name_map(gguf.MODEL_ARCH[case.base.upper()], 8)
    expected = deltas(model)
    assert len(tensors) == 2 * len(expected)
    for module, delta in expected.items():
        tensor = names.get_name(f"{module}.weight", (".weight",))
        a, b = tensors[f"{tensor}.lora_a"], tensors[f"{tensor}.lora_b"]
        heads = {"q_proj": 4, "k_proj": 2}.get(module.rpartition(".")[2])
        wanted = delta.T if case.base == "gpt2" else interleaved(delta, heads) if heads else delta
        scale = values["adapter.lora.alpha"] / b.shape[1]  # llama.cpp: alpha / b->ne[0]
        np.testing.assert_allclose(scale * b @ a, wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ADAPTERS)
def test_gguf_to_peft_is_the_same_adapter(name: str, bases: Callable[[str], BaseLayout], tmp_path: Path) -> None:
    case = ADAPTERS[name]
    write(case, tmp_path / "own")
    base = bases(case.base)
    made = convert(FolderFiles(tmp_path / "own"), "gguf", base)

    back = convert(BytesFiles(made), "peft", base)

    assert convert(BytesFiles(back), "gguf", base) == made
    for files in (made, back):
        assert check(read_adapter(BytesFiles(files)), base).verdict == "fits"
    (tmp_path / "peft").mkdir()
    for path, content in back.items():
        (tmp_path / "peft" / path).write_bytes(content)
    tokens = torch.arange(12).reshape(2, 6)
    logits = []
    for folder in ("own", "peft"):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.PeftModel.from_pretrained(_base_of(case), tmp_path / folder).eval()
        with torch.no_grad():
            logits.append(model(input_ids=tokens).logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-6)


def test_a_checkpoint_without_its_head_has_shorter_names(bases: Callable[[str], BaseLayout], tmp_path: Path) -> None:
    """As openai-community/gpt2 lies on the Hub: `h.0…`, where the model and its adapters have `transformer.h.0…`."""
    write(CASES["lora-gpt2"], tmp_path)
    base = bases("gpt2")
    bare = BaseLayout({name.removeprefix("transformer."): t for name, t in base.tensors.items()}, base.config)
    made = BytesFiles(convert(FolderFiles(tmp_path), "gguf", bare))

    modules = {
        update.module
        for found in (base, bare)
        for update in read_adapter(BytesFiles(convert(made, "peft", found))).updates
    }

    assert modules == {update.module for update in read_adapter(FolderFiles(tmp_path)).updates}


def _base_of(case: Case) -> transformers.PreTrainedModel:
    from corpus.peft_corpus import make_base

    return make_base(case.base)


def test_one_alpha_keeps_the_dtype_and_the_bits(bases: Callable[[str], BaseLayout], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write(CASES["rslora"], tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    for dtype, kind in ((torch.bfloat16, "BF16"), (torch.float16, "F16")):
        save_file({name: tensor.to(dtype) for name, tensor in load_file(weights).items()}, weights)
        made = convert(FolderFiles(tmp_path), "gguf", bases("llama"))
        (tmp_path / "adapter.gguf").write_bytes(made["adapter.gguf"])
        reader = gguf.GGUFReader(tmp_path / "adapter.gguf")
        assert {tensor.tensor_type.name for tensor in reader.tensors} == {kind}
        assert reader.get_field("adapter.lora.alpha").contents() == pytest.approx(8 * 4**0.5)
        (tmp_path / "adapter.gguf").unlink()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_architectures_and_names_are_those_of_llama_cpp(kind: str) -> None:
    from lorahub.adapters.names.by_rule import gguf_name

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == ARCHITECTURES[kind])
    names = get_tensor_name_map(arch, 2)
    inner = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj self_attn.qkv_proj mlp.down_proj"
    modules = [f"model.layers.1.{leaf}" for leaf in inner.split()]
    if kind == "gpt2":
        modules = [f"transformer.h.1.{leaf}" for leaf in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    known = {module: names.get_name(module) for module in modules if names.get_name(module)}
    assert len(known) >= 4
    assert known == {module: gguf_name(module) for module in known}


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_without_the_base_or_its_type_nothing_is_guessed(bases: Callable[[str], BaseLayout], tmp_path: Path) -> None:
    write(CASES["lora"], tmp_path)
    files = FolderFiles(tmp_path)
    base = bases("llama")

    with pytest.raises(NotConvertible, match="names and the order of rows depend on the base"):
        convert(files, "gguf")
    with pytest.raises(NotConvertible, match=r"the base is of type falcon, known for llama.cpp are llama"):
        convert(files, "gguf", BaseLayout(base.tensors, {"model_type": "falcon"}))
    with pytest.raises(NotConvertible, match=r"has 16 rows, the base's config.json has None heads"):
        convert(files, "gguf", BaseLayout(base.tensors, {"model_type": "llama"}))


def test_modules_that_llama_cpp_does_not_have_are_refused(bases: Callable[[str], BaseLayout], tmp_path: Path) -> None:
    write(Case("llama", lora), tmp_path)
    from safetensors.torch import load_file, save_file

    weights = tmp_path / "adapter_model.safetensors"
    tensors = load_file(weights)
    seen = {name.replace("model.layers", "vision_tower.layers"): tensor for name, tensor in tensors.items()}
    save_file(seen, weights)

    with pytest.raises(NotConvertible, match=r"vision_tower.layers.0.self_attn.q_proj has no name in llama.cpp"):
        convert(FolderFiles(tmp_path), "gguf", bases("llama"))

    save_file({name: tensor.double() for name, tensor in tensors.items()}, weights)
    with pytest.raises(NotConvertible, match=r"is F64, which llama.cpp doesn't read"):
        convert(FolderFiles(tmp_path), "gguf", bases("llama"))


def test_back_from_gguf_the_base_must_be_the_adapters(bases: Callable[[str], BaseLayout], tmp_path: Path) -> None:
    write(CASES["lora"], tmp_path)
    base = bases("llama")
    made = BytesFiles(convert(FolderFiles(tmp_path), "gguf", base))
    fewer = BaseLayout({name: t for name, t in base.tensors.items() if ".layers.2." not in name}, base.config)

    with pytest.raises(NotConvertible, match="the adapter is for llama, the base is gpt2"):
        convert(made, "peft", bases("gpt2"))
    with pytest.raises(NotConvertible, match=r"2 tensors aren't in the base, first blk.2.attn_q"):
        convert(made, "peft", fewer)


def test_quantised_factors_are_refused(bases: Callable[[str], BaseLayout], tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "adapter.gguf", "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 8)
    for ending, shape in (("lora_a", (32, 32)), ("lora_b", (16, 32))):
        quantised = gguf.quants.quantize(np.ones(shape, np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"blk.0.attn_q.weight.{ending}", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(NotConvertible, match=r"the factors are quantised \(Q8_0\)"):
        convert(FolderFiles(tmp_path), "peft", bases("llama"))
