"""`lorahub estimate`: the paper's figures, the shapes of known models, and counts beside those of real models."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from corpus.peft_corpus import BASES
from lorahub.errors import InvalidBaseModel, InvalidUsage
from lorahub.estimating.estimate import estimate
from lorahub.estimating.known import KNOWN
from lorahub.estimating.methods import METHODS, MethodSettings, trainable
from lorahub.estimating.model import ModelShape, known_model, model_of_base, model_of_config
from lorahub.estimating.selfcheck import selfcheck
from lorahub.hub.bases import read_folder
from lorahub.training.config import TrainConfig
from lorahub.training.methods import METHODS as TRAINED
from registry_process import LORAHUB
from torch import nn

# What the paper's rows come to, worked out by hand from its formulas
EXACT = {
    "gpt3-175b lora r=1 on q,v": 4_718_592,
    "gpt3-175b lora r=2 on v": 4_718_592,
    "gpt3-175b lora r=2 on q,v": 9_437_184,
    "gpt3-175b lora r=4 on q,v": 18_874_368,
    "gpt3-175b lora r=8 on q,v": 37_748_736,
    "gpt3-175b lora r=64 on q,v": 301_989_888,
    "gpt3-175b lora r=1 on q,k,v,o": 9_437_184,
    "gpt3-175b lora r=2 on q,k,v,o": 18_874_368,
    "gpt3-175b lora r=4 on q,k,v,o": 37_748_736,
    "gpt3-175b lora r=64 on q,k,v,o": 603_979_776,
    "gpt3-175b adapter-h r=1": 7_078_080,
    "gpt3-175b adapter-h r=4": 21_234_432,
    "gpt3-175b adapter-h r=8": 40_109_568,
    "gpt3-175b adapter-h r=16": 77_859_840,
    "gpt3-175b adapter-h r=64": 304_361_472,
    "gpt3-175b prefix-embed 32+8 tokens": 491_520,
    "gpt3-175b prefix-embed 256+8 tokens": 3_244_032,
    "gpt3-175b prefix-embed 512+8 tokens": 6_389_760,
    "gpt3-175b lora+prefix-embed r=8 on q,v 8+4 tokens": 37_896_192,
    "gpt3-175b lora+prefix-embed r=32 on q,v 8+4 tokens": 151_142_400,
    "gpt3-175b lora+prefix-embed r=64 on q,v 8+4 tokens": 302_137_344,
    "gpt2-medium top-2-layers": 25_192_448,
    "gpt2-medium adapter-l r=6": 368_784,
    "gpt2-medium adapter-l r=224": 11_089_152,
    "gpt2-large full": 774_030_080,
    "gpt2-large adapter-l r=8": 875_808,
    "gpt2-large adapter-l r=248": 23_002_848,
    "roberta-base lora r=8 on q,v": 294_912,
    "roberta-base bitfit": 102_144,
    "roberta-large lora r=8 on q,v": 786_432,
    "deberta-v2-xxlarge lora r=16 on q,v": 4_718_592,
}
DIFFERENT = {
    "gpt2-medium lora r=4 on q,v": 393_216,
    "gpt2-large lora r=4 on q,v": 737_280,
    "deberta-v2-xxlarge lora r=8 on q,v": 2_359_296,
    "gpt3-175b lora r=2 on q,k,v,o": 18_874_368,
    "gpt3-175b prefix-layer 8+8 tokens": 18_874_368,
    "gpt3-175b bitfit": 12_988_416,
    "gpt2-medium full": 354_823_168,
    "roberta-base LoRA r=8 with a head of 3, bytes": 4 * 887_811,
    "roberta-large LoRA r=8 with a head of 2, bytes": 4 * 1_838_082,
    "deberta-v2-xxlarge LoRA r=16 with a head of 3, bytes": 4 * 7_084_035,
}


def lorahub(*arguments: str, code: int = 0) -> Any:
    done = subprocess.run([LORAHUB, "estimate", *arguments, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    document = json.loads(done.stdout)
    return document["result"] if code == 0 else document["error"]


# --- the paper --------------------------------------------------------------------------------------------------------


def test_every_row_of_the_paper_that_should_match_does_to_the_parameter() -> None:
    found = lorahub("--selfcheck")
    assert {row["what"]: row["exact"] for row in found["rows"]} == EXACT
    assert {row["verdict"] for row in found["rows"]} == {"exact", "cut off", "close"}


def test_every_known_discrepancy_is_told_with_its_reason() -> None:
    found = selfcheck()
    assert len(found.discrepancies) == 8
    assert all(known.reason for known in found.discrepancies)
    rows = {row.what: row for known in found.discrepancies for row in known.rows}
    assert {what: rows[what].exact for what in DIFFERENT} == DIFFERENT
    assert not [row for row in rows.values() if row.verdict in ("exact", "cut off")]
    prefixes = [row.off for what, row in rows.items() if "prefix-layer" in what]
    assert (round(min(prefixes), 3), round(max(prefixes), 3)) == (0.008, 0.081)


def test_the_headlines_come_out_under_their_accounting() -> None:
    found = {line.what: line.exact for line in selfcheck().headlines}
    assert list(found.values()) == [
        "174,604.3M",
        "9,251×",
        "37.75 MB",
        "349.2 GB",
        "353.0 GB, 34.92 TB",
        "3.00×",
        "1.05 to 1.40 TB → 349 GB",
        "24.6%",
    ]


@pytest.mark.parametrize(
    ("accounting", "ratio"), [("paper", 3.0), ("16bit", 4.0), ("fp32", 4.0), ("mixed", 7.99), ("qlora", 30.58)]
)
def test_memory_of_gpt3_by_accounting(accounting: str, ratio: float) -> None:
    found = lorahub("gpt3-175b", "--rank", "4", "--targets", "q,v", "--accounting", accounting)
    assert round(found["memory_bytes"][accounting]["ratio"], 2) == ratio
    assert found["trainable"] == 18_874_368
    assert found["checkpoint_bytes"] == {"16bit": 37_748_736, "fp32": 75_497_472}


# --- known models -----------------------------------------------------------------------------------------------------

CLASSES: dict[str, Callable[[Any], nn.Module]] = {
    "gpt2": transformers.GPT2Model,
    "gpt2-large": transformers.GPT2Model,
    "roberta-base": lambda config: transformers.RobertaModel(config, add_pooling_layer=False),
    "deberta-v2-xxlarge": transformers.DebertaV2Model,
    "llama-3-8b": transformers.LlamaForCausalLM,
    "llama-3.2-1b": transformers.LlamaForCausalLM,
}


@pytest.mark.parametrize("name", list(CLASSES))
def test_shapes_of_known_models_are_those_of_transformers(name: str) -> None:
    config = transformers.AutoConfig.for_model(**KNOWN[name])
    if name.startswith("deberta"):
        config.update({"relative_attention": True, "share_att_key": True, "norm_rel_ebd": "layer_norm"})
    with torch.device("meta"):
        model = CLASSES[name](config)
    known = known_model(name)
    assert known is not None
    assert known.tensors == {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def test_every_known_name_has_every_method_or_says_why_not() -> None:
    for name in KNOWN:
        model = known_model(name)
        assert model is not None
        for method in METHODS:
            try:
                assert 0 < trainable(model, method, MethodSettings()) <= model.parameters
            except InvalidUsage as fault:
                assert (method, "llama" in name) == ("bitfit", True), fault  # noqa: PT017


# --- real models ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["llama", "llama-tied", "gpt2"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    BASES[request.param]().save_pretrained(folder)
    return request.param, folder


def of_weights(folder: Path) -> ModelShape:
    return model_of_base("here", read_folder(folder))


def of_config(folder: Path) -> ModelShape:
    return model_of_config("here", json.loads((folder / "config.json").read_text()))


def counted(base: str, config: peft.PeftConfig) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(BASES[base](), config)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("read", [of_weights, of_config])
def test_counts_are_those_of_peft(saved: tuple[str, Path], read: Callable[[Path], ModelShape]) -> None:
    name, folder = saved
    model = read(folder)
    queries = ["c_attn"] if name == "gpt2" else ["q_proj", "v_proj"]
    task = {"task_type": "CAUSAL_LM"}
    expected = {
        ("lora", "all-linear"): peft.LoraConfig(r=3, target_modules="all-linear", **task),
        ("lora", "q,v"): peft.LoraConfig(r=3, target_modules=queries, **task),
        ("lora", ",".join(queries)): peft.LoraConfig(r=3, target_modules=queries, **task),
        ("prefix", "q"): peft.PrefixTuningConfig(num_virtual_tokens=5, **task),
        ("prompt", "q"): peft.PromptTuningConfig(num_virtual_tokens=5, **task),
        ("ia3", "q"): peft.IA3Config(**task),
    }
    for (method, targets), config in expected.items():
        settings = MethodSettings(rank=3, targets=tuple(targets.split(",")), tokens=5)
        assert trainable(model, method, settings) == counted(name, config), (method, targets)


def test_counts_are_what_lorahub_train_trains(saved: tuple[str, Path]) -> None:
    name, folder = saved
    for method in METHODS:
        settings: dict[str, Any] = {"method": method, "rank": 3, "virtual_tokens": 5}
        if method in ("houlsby", "pfeiffer"):
            settings |= {"method": "bottleneck", "bottleneck": method}
        if settings["method"] not in TRAINED or (method == "bitfit" and name != "gpt2"):
            continue
        model = BASES[name]().requires_grad_(requires_grad=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            real = TRAINED[settings["method"]](TrainConfig(**settings)).attach(model)
        trained = sum(parameter.numel() for parameter in real.parameters() if parameter.requires_grad)
        assert trainable(of_weights(folder), method, MethodSettings(rank=3, tokens=5)) == trained, method


@pytest.mark.parametrize("read", [of_weights, of_config])
def test_full_is_every_parameter_and_bitfit_every_bias(
    saved: tuple[str, Path], read: Callable[[Path], ModelShape]
) -> None:
    name, folder = saved
    model, real = read(folder), BASES[name]()
    assert trainable(model, "full", MethodSettings()) == sum(parameter.numel() for parameter in real.parameters())
    biases = sum(parameter.numel() for name, parameter in real.named_parameters() if name.endswith(".bias"))
    if biases:
        assert trainable(model, "bitfit", MethodSettings()) == biases
    else:
        with pytest.raises(InvalidUsage, match="no biases"):
            trainable(model, "bitfit", MethodSettings())


def test_memory_of_full_is_that_of_no_adapter_at_all(saved: tuple[str, Path]) -> None:
    made = estimate(of_weights(saved[1]), "full", MethodSettings())
    assert all(full == own for full, own in made.memory.values())
    assert made.memory["fp32"][1] == 16 * made.parameters


# --- the command ------------------------------------------------------------------------------------------------------

SAYS = """
import sys
from lorahub.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(sorted({"torch", "numpy", "httpx2", "transformers"} & sys.modules.keys()), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--selfcheck"], ["llama-3-8b", "--method", "all"], ["."]])
def test_neither_torch_nor_a_network_is_needed(arguments: list[str], saved: tuple[str, Path]) -> None:
    command = [sys.executable, "-c", SAYS, "estimate", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=saved[1])
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stderr.splitlines()[-1].replace("'", '"'))
    assert not {"torch", "transformers"} & set(loaded)
    if arguments != ["."]:
        assert loaded == []


def test_a_folder_and_its_config_give_the_same(saved: tuple[str, Path]) -> None:
    folder = saved[1]
    by_weights, by_config = (lorahub(str(place)) for place in (folder, folder / "config.json"))
    assert by_weights["trainable"] == by_config["trainable"] > 0
    assert by_weights["model"] | {"name": ""} == by_config["model"] | {"name": ""}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["llama-2-7bb"], "no model that is known by name"),
        ([], "no model is named"),
        (["llama-3-8b", "--method", "bitfit"], "no biases"),
        (["gpt2", "--targets", "q_proj"], "no linear layer of gpt2 is called 'q_proj'"),
        (["./nowhere"], "isn't there"),
    ],
)
def test_what_cant_be_told_is_said(arguments: list[str], says: str) -> None:
    error = lorahub(*arguments, code=5 if arguments == ["./nowhere"] else 2)
    assert says in error["message"]
    assert error["hint"]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "mamba"}, "not told by its config.json"),
        ({"model_type": "llama"}, "doesn't say"),
        ({"model_type": "gpt2", "n_embd": "wide", "vocab_size": 3}, "a usable n_embd"),
        ({}, "not told by its config.json"),
    ],
)
def test_configurations_that_say_too_little_are_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidBaseModel, match=says):
        model_of_config("some", config)
