"""Models made of parts, each with names of its own: what PEFT and transformers load is found, and nothing else is."""

import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from corpus.text_families import FAMILIES, write_adapter, write_base
from lorahub import Session
from lorahub.adapters.adapter import Naming
from lorahub.adapters.base_model import BaseLayout, BaseTensor, read_base
from lorahub.adapters.check import Report, check
from lorahub.adapters.files import BytesFiles, FolderFiles
from lorahub.adapters.names.base_names import BaseNames
from lorahub.adapters.reader import read_adapter
from lorahub.conversion import convert
from lorahub.errors import AdapterDoesNotFit
from lorahub.merging.folder import write_model
from lorahub.merging.plan import Ingredients, MergePlan
from lorahub.merging.recipe import Ingredient, Recipe
from safetensors.torch import load_file, save, save_file

TOOL = Path(__file__).parents[2] / "tools" / "transformers_names.py"
TABLE = Path(__file__).parents[2] / "client/lorahub/adapters/names/transformers.json"
WEIGHTS = "adapter_model.safetensors"
_START = "base_model.model."


class Pair:
    """A base, and PEFT's adapter of it in files that a test may change."""

    def __init__(self, family: str, folder: Path, **settings: Any) -> None:
        torch.manual_seed(3)
        self.folder = folder
        self.base = write_base(FAMILIES[family](), folder / "base")
        self.kind = type(FAMILIES[family]())
        self.adapted = write_adapter(self.model(), folder / "adapter", **settings)
        self.modules = {name.partition(".lora_")[0] for name in load_file(folder / "adapter" / WEIGHTS)}

    def model(self, folder: Path | None = None) -> Any:
        return self.kind.from_pretrained(folder or self.base, dtype=torch.float32)

    def rename(self, change: Callable[[str], str], *, only: str = "") -> "Pair":
        file = self.folder / "adapter" / WEIGHTS
        tensors = {change(name) if only in name else name: tensor for name, tensor in load_file(file).items()}
        save_file(tensors, file, {"format": "pt"})
        return self

    def retarget(self, *targets: str) -> "Pair":
        file = self.folder / "adapter" / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": targets, "exclude_modules": None}))
        return self

    def check(self, **config: Any) -> Report:
        base = read_base(FolderFiles(self.base))
        base = replace(base, config={**base.config, **config})
        return check(read_adapter(FolderFiles(self.folder / "adapter")), base)

    def merged(self) -> dict[str, torch.Tensor]:
        """In memory, by the names of the model's class."""
        files = Ingredients(FolderFiles(self.base), [FolderFiles(self.folder / "adapter")], {})
        shutil.rmtree(self.folder / "merged", ignore_errors=True)
        write_model(MergePlan(Recipe("base", (Ingredient("adapter"),)), files), self.folder / "merged")
        merged: dict[str, torch.Tensor] = self.model(self.folder / "merged").state_dict()
        return merged

    def loaded_by_peft(self) -> int:
        """How many modules of the file get factors that aren't zero."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.PeftModel.from_pretrained(self.model(), self.folder / "adapter")
        return sum(bool(value.any()) for name, value in model.state_dict().items() if "lora_B" in name)


def errors(report: Report) -> set[str]:
    return {found.rule for found in report.findings if found.severity.value == "error"}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_layers_of_all_parts_are_found_and_merged_like_peft(family: str, tmp_path: Path) -> None:
    pair = Pair(family, tmp_path)
    report = pair.check()
    assert (report.verdict, report.matched, report.of) == ("fits", len(pair.modules), len(pair.modules))
    assert [found.rule for found in report.findings] == ["LH104"]
    merged, right = pair.merged(), pair.adapted.merge_and_unload().state_dict()
    assert merged.keys() == right.keys()
    for name, tensor in right.items():
        torch.testing.assert_close(merged[name], tensor, rtol=0, atol=2e-6, msg=name)


@pytest.mark.parametrize("family", ["gemma3", "llava", "qwen2-vl", "mllama", "whisper", "nomic-bert"])
def test_a_session_gives_pefts_logits(family: str, tmp_path: Path) -> None:
    pair = Pair(family, tmp_path)
    ids = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8]])
    given = (
        {"input_features": torch.ones(1, 8, 32), "decoder_input_ids": ids}
        if family == "whisper"
        else {"input_ids": ids}
    )
    with Session(pair.model().eval()) as session, torch.inference_mode():
        before = session.model(**given).logits.clone()
        session.load("one", tmp_path / "adapter")
        session.use("one")
        ours, right = session.model(**given).logits, pair.adapted.eval()(**given).logits
    torch.testing.assert_close(ours, right, rtol=0, atol=1e-5)
    assert float((ours - before).abs().max()) > 1e-3


# --- names of other versions ------------------------------------------------------------------------------------------

OLD: dict[str, dict[str, str]] = {
    "llava": {
        "model.language_model.": "language_model.model.",
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    },
    "gemma3": {
        "model.language_model.": "language_model.model.",
        "model.vision_tower.": "vision_tower.vision_model.",
    },
    "mllama": {
        "model.language_model.": "language_model.model.",
        "model.vision_model.": "vision_model.",
        "model.multi_modal_projector": "multi_modal_projector",
    },
    "paligemma": {
        "model.language_model.": "language_model.model.",
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    },
    "qwen2.5-vl": {"model.language_model.": "model.", "model.visual.": "visual."},
    "clip-text": {"": "text_model."},
}
"""What transformers 4 called the parts, before 4.52."""


def spelled(name: str, table: dict[str, str]) -> str:
    inner = name.removeprefix(_START)
    for new, old in table.items():
        if inner.startswith(new):
            return _START + old + inner.removeprefix(new)
    return name


@pytest.mark.parametrize("family", OLD)
def test_adapters_of_transformers_4_fit_and_merge_alike(family: str, tmp_path: Path) -> None:
    pair = Pair(family, tmp_path)
    right = pair.merged()
    report = pair.rename(lambda name: spelled(name, OLD[family])).check()
    assert (report.verdict, report.matched, report.of) == ("fits", len(pair.modules), len(pair.modules))
    assert all(torch.equal(tensor, right[name]) for name, tensor in pair.merged().items())


AGAIN: dict[str, tuple[Callable[[str], str], str]] = {
    "llava": (lambda name: spelled(name, OLD["llava"]), "LH201"),
    "qwen2-vl": (lambda name: spelled(name, OLD["qwen2.5-vl"]), "LH201"),
    "nomic-bert": (lambda name: name.replace("self_attn.o_proj", "attn.out_proj"), "LH215"),
}


@pytest.mark.parametrize("family", AGAIN)
def test_one_module_under_its_old_and_its_new_name_is_wrong(family: str, tmp_path: Path) -> None:
    pair = Pair(family, tmp_path)
    change, rule = AGAIN[family]
    file = tmp_path / "adapter" / WEIGHTS
    tensors = load_file(file)
    chosen = [name for name in tensors if ".layers.0.self_attn.o_proj." in name and "vision" not in name]
    again = {change(name): tensors[name].clone() for name in chosen}
    assert again
    assert not again.keys() & tensors.keys()
    save_file(tensors | again, file, {"format": "pt"})
    assert errors(pair.check()) >= {rule}
    with pytest.raises(AdapterDoesNotFit):
        pair.merged()


# --- prefixes ---------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, Callable[[str], str]]] = {
    "a composite's names for a plain model": (
        "gemma3-text",
        lambda name: name.replace(_START, f"{_START}model.language_"),
    ),
    "an older composite's": ("gemma3-text", lambda name: name.replace(_START, f"{_START}language_model.")),
    "the prefix twice": ("gemma3-text", lambda name: name.replace(_START, f"{_START}model.")),
    "a model of PEFT's in another": ("gemma3-text", lambda name: _START + name),
    "another family's": ("bert-bare", lambda name: name.replace(_START, f"{_START}roberta.")),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_prefix_that_the_class_does_not_have_is_wrong(case: str, tmp_path: Path) -> None:
    family, change = WRONG[case]
    pair = Pair(family, tmp_path)
    assert pair.loaded_by_peft() == len(pair.modules)
    pair.rename(change)
    report = pair.check()
    assert pair.loaded_by_peft() == report.matched == 0
    assert (report.verdict, errors(report)) == ("incompatible", {"LH210"})
    told = next(found.message for found in report.findings if found.rule == "LH210")
    assert "loaders skip them" in told
    with pytest.raises(AdapterDoesNotFit):
        pair.merged()


def test_what_begins_otherwise_is_told(tmp_path: Path) -> None:
    report = Pair("gemma3-text", tmp_path).rename(WRONG["a composite's names for a plain model"][1]).check()
    told = "They begin with `model.language_model.` where Gemma3ForCausalLM's begin with `model.`"
    assert any(told in found.message for found in report.findings)


@pytest.mark.parametrize(
    ("family", "old", "new"), [("gemma3-text", "model.model.", "model."), ("bert", "model.bert.", "model.")]
)
def test_an_adapter_of_the_model_without_its_head_fits(family: str, old: str, new: str, tmp_path: Path) -> None:
    pair = Pair(family, tmp_path, target_modules=["q_proj", "up_proj", "query", "value"])
    right = pair.merged()
    report = pair.rename(lambda name: name.replace(old, new)).check()
    assert (report.verdict, report.matched) == ("fits", len(pair.modules))
    assert "LH221" in {found.rule for found in report.findings}
    assert all(torch.equal(tensor, right[name]) for name, tensor in pair.merged().items())


def test_a_base_saved_without_its_head_takes_adapters_of_the_whole_model(tmp_path: Path) -> None:
    pair = Pair("bert-bare", tmp_path).rename(lambda name: name.replace(_START, f"{_START}bert."))
    assert (pair.check().verdict, pair.check().matched) == ("fits", len(pair.modules))


def test_the_language_model_alone_has_trained_for_the_whole(tmp_path: Path) -> None:
    pair = Pair("gemma3", tmp_path, target_modules=r".*language_model.*\.q_proj")
    right = pair.merged()
    pair.rename(lambda name: name.replace("model.model.language_model.", "model.model.")).retarget("q_proj")
    assert (pair.check().verdict, pair.check().matched) == ("fits", len(pair.modules))
    assert all(torch.equal(tensor, right[name]) for name, tensor in pair.merged().items())


@pytest.mark.parametrize("family", ["gemma3-text", "qwen2-vl", "llava", "bert"])
def test_one_module_with_another_prefix_than_its_neighbours_is_wrong(family: str, tmp_path: Path) -> None:
    pair = Pair(family, tmp_path)
    first = min(name for name in pair.modules if ".0." in name)
    outer, _, rest = first.removeprefix(_START).partition(".")
    assert outer
    pair.rename(lambda name: name.replace(first, _START + rest), only=f"{first}.")
    assert pair.loaded_by_peft() == len(pair.modules) - 1
    assert "LH201" in errors(pair.check())


def test_a_class_that_is_not_known_gets_one_change_for_each_part(tmp_path: Path) -> None:
    pair = Pair("qwen2-vl", tmp_path)
    report = pair.check(architectures=["OurOwnVLModel"], model_type="our_own")
    assert (report.verdict, report.matched, report.of) == ("fits", len(pair.modules), len(pair.modules))


# --- wrappers ---------------------------------------------------------------------------------------------------------

WRAPPED: dict[str, Callable[[str], str]] = {
    "torch.compile": lambda name: name.replace(_START, f"{_START}_orig_mod."),
    "torch.compile of a layer": lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
    "data parallelism": lambda name: f"module.{name}",
    "data parallelism inside": lambda name: name.replace(_START, f"{_START}module."),
    "DeepSpeed": lambda name: f"_forward_module.{name}",
    "FSDP and checkpointing": lambda name: name.replace(
        "layers.1.", "layers.1._fsdp_wrapped_module._checkpoint_wrapped_module."
    ).replace(_START, f"_fsdp_wrapped_module.{_START}_fsdp_wrapped_module."),
    "a part of its own": lambda name: name.replace("model.model.", "model.model.module."),
    "PEFT's name of the adapter": lambda name: of_adapter(name, "default"),
    "a name of one's own": lambda name: of_adapter(name, "sql"),
    "all of it": lambda name: (
        "module._orig_mod." + of_adapter(name.replace("layers.", "_fsdp_wrapped_module.layers."), "sql")
    ),
}


def of_adapter(name: str, adapter: str) -> str:
    """As in a state dict, where PEFT hasn't taken the adapter's name out."""
    return f"{name.removesuffix('.weight')}.{adapter}.weight"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, bytes, dict[str, torch.Tensor]]:
    pair = Pair("gemma3-text", tmp_path_factory.mktemp("plain"), use_dora=True)
    return pair, (pair.folder / "adapter" / WEIGHTS).read_bytes(), pair.merged()


@pytest.mark.parametrize("case", WRAPPED)
def test_wrappers_and_names_of_adapters_are_read_through(
    case: str, plain: tuple[Pair, bytes, dict[str, torch.Tensor]]
) -> None:
    pair, content, right = plain
    (pair.folder / "adapter" / WEIGHTS).write_bytes(content)
    report = pair.rename(WRAPPED[case]).check()
    assert (report.verdict, report.matched, report.of) == ("fits", len(pair.modules), len(pair.modules))
    assert [found.rule for found in report.findings] == ["LH104"]
    assert all(torch.equal(tensor, right[name]) for name, tensor in pair.merged().items())


@pytest.mark.parametrize("case", ["all of it", "FSDP and checkpointing", "data parallelism"])
def test_the_normal_form_is_what_peft_loads(case: str, tmp_path: Path) -> None:
    pair = Pair("gemma3-text", tmp_path).rename(WRAPPED[case])
    assert pair.loaded_by_peft() < len(pair.modules)
    for name, content in convert(FolderFiles(tmp_path / "adapter"), "peft-normalized").items():
        (tmp_path / "adapter" / name).write_bytes(content)
    assert pair.loaded_by_peft() == len(pair.modules)


def test_llama_cpps_names_are_those_of_the_language_model(tmp_path: Path) -> None:
    pair = Pair("gemma3", tmp_path)
    names = BaseNames(read_base(FolderFiles(pair.base)))
    found = names.resolve(["blk.0.attn_q", "blk.1.ffn_down"], Naming.GGUF).modules
    assert found["blk.0.attn_q"] == "model.language_model.layers.0.self_attn.q_proj"
    assert found["blk.1.ffn_down"] == "model.language_model.layers.1.mlp.down_proj"


def test_embeddings_and_saved_modules_have_the_adapters_name_too(tmp_path: Path) -> None:
    pair = Pair(
        "bert-classifier", tmp_path, target_modules=["query", "word_embeddings"], modules_to_save=["classifier"]
    )
    right = pair.merged()

    def named(name: str) -> str:
        if ".lora_" in name:
            return name.replace(".weight", ".sql.weight") if name.endswith(".weight") else f"{name}.sql"
        return name.replace(".classifier.", ".classifier.modules_to_save.sql.")

    report = pair.rename(named).check()
    assert (report.verdict, errors(report)) == ("fits", set())
    assert all(torch.equal(tensor, right[name]) for name, tensor in pair.merged().items())


TWINS = {
    "DiffusionGemmaForBlockDiffusion": ("model.decoder.layers.0.mlp.up_proj", "model.encoder.language_model.layers.0"),
    "NeoMMEForMaskedLM": ("model.embed_tokens.embedding_projection", "unembedding_projection"),
}
"""Class -> a module that is stored, and what has no tensor of its own because it is tied to it, or to its layer."""


@pytest.mark.parametrize("side", ["stored", "tied", "neither"])
@pytest.mark.parametrize("family", TWINS)
def test_of_two_layers_that_are_one_tensor_an_adapter_of_either_is_undecided(family: str, side: str) -> None:
    stored, tied = TWINS[family]
    twin = tied + stored.removeprefix("model.decoder.layers.0") if "layers" in tied else tied
    base = BaseLayout(
        {f"{stored}.weight": BaseTensor("F32", (6, 4)), "model.other.weight": BaseTensor("F32", (6, 4))},
        {"architectures": [family]},
    )
    module = {"stored": stored, "tied": twin, "neither": f"{twin}x"}[side]
    names = [module, "model.other"]
    factors = {"lora_A": torch.zeros(2, 4), "lora_B": torch.zeros(6, 2)}
    tensors = {f"{_START}{name}.{role}.weight": one.clone() for name in names for role, one in factors.items()}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": names}
    files = BytesFiles({"adapter_config.json": json.dumps(config).encode(), WEIGHTS: save(tensors)})
    report = check(read_adapter(files), base)
    told = {found.rule: found for found in report.findings}
    assert (report.matched, report.of) == (1, 2)
    if side == "neither":
        assert (report.verdict, "LH201" in told) == ("incompatible", True)
    else:
        assert (report.verdict, [one.name for one in told["LH306"].evidence]) == ("undecided", [module])
        assert "LH207" not in told

    untied = replace(base, config={**base.config, "tie_word_embeddings": False})
    assert (twin in BaseNames(base).twins, twin in BaseNames(untied).twins) == (True, False)


def test_names_of_megatron_are_undecided(tmp_path: Path) -> None:
    pair = Pair("gemma3-text", tmp_path)
    there = "decoder.layers.0.self_attention.linear_qkv.adapter"
    tensors = {f"{there}.linear_in.weight": torch.ones(4, 32), f"{there}.linear_out.weight": torch.ones(64, 4)}
    save_file(tensors, tmp_path / "adapter" / WEIGHTS, {"format": "pt"})
    report = pair.check()
    assert (report.verdict, errors(report)) == ("undecided", set())
    named = next(found.evidence for found in report.findings if found.rule == "LH306")
    assert {piece.name for piece in named} == tensors.keys()
    with pytest.raises(AdapterDoesNotFit):
        pair.merged()


def test_two_adapters_in_one_file(tmp_path: Path) -> None:
    pair = Pair("gemma3-text", tmp_path)
    file = tmp_path / "adapter" / WEIGHTS
    tensors = load_file(file)
    both = {
        name.replace(".weight", f".{own}.weight"): tensor.clone()
        for name, tensor in tensors.items()
        for own in ("sql", "default")
    }
    save_file(both, file, {"format": "pt"})
    report = pair.check()
    assert (report.verdict, errors(report)) == ("incompatible", {"LH215"})
    assert "of 2 adapters: " in next(found.message for found in report.findings if found.rule == "LH215")


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_says_what_it_is_made_from() -> None:
    assert json.loads(TABLE.read_text())["made_from"] == f"transformers {transformers.__version__}", "run make names"


@pytest.mark.sweep  # two minutes
def test_the_table_is_that_of_the_installed_transformers() -> None:
    spec = importlib.util.spec_from_file_location("transformers_names", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PLACE.read_text() == tool.document(), "run make names"
