"""Vocabularies that grew or shrank before training: what PEFT saves of them, checked and merged on either base."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from corpus.peft_corpus import lora
from lorahub.adapters.base_model import read_base
from lorahub.adapters.check import Report, check
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.reader import read_adapter
from lorahub.adapters.runtimes import RuntimeVerdict, judge_runtimes, newest
from lorahub.conversion import convert, refusal
from lorahub.errors import AdapterDoesNotFit, NotConvertible, NotMergeable
from lorahub.merging.folder import write_model
from lorahub.merging.plan import Ingredients, MergePlan
from lorahub.merging.recipe import Ingredient, Recipe
from safetensors.torch import load_file, save_file

ROWS = 64
IDS = torch.arange(1, 60)[None]
BOTH = ["embed_tokens", "lm_head"]


@dataclass(frozen=True)
class Grown:
    """What was trained on a base with `rows` tokens, and saved beside it."""

    settings: dict[str, Any]
    rows: int = 70
    tied: bool = False
    save: Any = "auto"


CASES = {
    "saved": Grown({"modules_to_save": BOTH}),
    "saved-shrunk": Grown({"modules_to_save": BOTH}, rows=60),
    "saved-tied": Grown({"modules_to_save": BOTH}, tied=True),
    "ensured-tied": Grown({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, tied=True),
    "embedding-of-a-tied-pair": Grown({"modules_to_save": ["embed_tokens"]}, tied=True),
    "lora-tied": Grown({"target_modules": ["q_proj", "embed_tokens"]}, tied=True),
    "lora-both": Grown({"target_modules": ["q_proj", *BOTH]}),
    "tokens": Grown({"trainable_token_indices": {"embed_tokens": [64, 69]}}),
    "tokens-tied": Grown({"trainable_token_indices": {"embed_tokens": [64, 65, 69]}}, tied=True),
    "embeddings-beside": Grown({}, save=True),
    "embeddings-beside-tied": Grown({}, tied=True, save=True),
}


class Made:
    """A case in files: the base as published, the base with the other vocabulary, the adapter; and PEFT's logits."""

    def __init__(self, case: Grown, folder: Path) -> None:
        self.folder = folder
        self.published, self.resized, self.adapter = (folder / name for name in ("base", "resized", "adapter"))
        torch.manual_seed(0)
        config = transformers.Qwen2Config(
            vocab_size=ROWS,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=case.tied,
        )
        transformers.Qwen2ForCausalLM(config).save_pretrained(self.published)
        model = transformers.Qwen2ForCausalLM.from_pretrained(self.published, dtype=torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.resize_token_embeddings(case.rows)
            model.save_pretrained(self.resized)
            adapted = peft.get_peft_model(model, lora(**{"target_modules": ["q_proj"], "r": 2} | case.settings))
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.1 * torch.randn(parameter.shape)
            adapted.eval().save_pretrained(self.adapter, save_embedding_layers=case.save)
        with torch.no_grad():
            self.logits = adapted(IDS % case.rows).logits
        self.ids = IDS % case.rows

    def check(self, base: Path) -> Report:
        return check(read_adapter(FolderFiles(self.adapter)), read_base(FolderFiles(base)))

    def runtimes(self, base: Path) -> dict[str, RuntimeVerdict]:
        found = self.check(base).findings
        adapter, layout = read_adapter(FolderFiles(self.adapter)), read_base(FolderFiles(base))
        return {one.runtime: one for one in judge_runtimes(adapter, layout, found, newest(), refusal)}

    def plan(self, base: Path, **recipe: Any) -> MergePlan:
        made = Recipe("base", (Ingredient("adapter", recipe.pop("weight", 1.0)),), **recipe)
        return MergePlan(made, Ingredients(FolderFiles(base), [FolderFiles(self.adapter)], {}))

    def merge(self, base: Path) -> Any:
        """The merged model, as transformers loads it."""
        folder = self.folder / f"merged-{base.name}"
        write_model(self.plan(base), folder)
        return transformers.Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def change(self, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
        place = self.adapter / "adapter_model.safetensors"
        save_file({name: value.contiguous() for name, value in change(load_file(place)).items()}, place)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("which", ["resized", "published"])
def test_the_merge_has_the_logits_of_peft(name: str, which: str, tmp_path: Path) -> None:
    made = Made(CASES[name], tmp_path)
    base = getattr(made, which)

    report = made.check(base)

    assert report.verdict == "fits", report.findings
    assert report.matched == report.of
    assert ("LH224" in {found.rule for found in report.findings}) == (which == "published")
    merged = made.merge(base)
    assert merged.config.vocab_size == CASES[name].rows
    with torch.no_grad():
        torch.testing.assert_close(merged(made.ids).logits, made.logits, rtol=1e-5, atol=1e-5)


def test_a_tie_is_kept_where_both_sides_get_the_same(tmp_path: Path) -> None:
    for name in ("tokens-tied", "ensured-tied"):
        made = Made(CASES[name], tmp_path / name)
        made.merge(made.published)
        config = json.loads((made.folder / "merged-base" / "config.json").read_text())
        assert (config["tie_word_embeddings"], config["vocab_size"]) == (True, 70)


INCOMPLETE: dict[str, Callable[[str], bool]] = {
    "only the head": lambda name: "embed_tokens" in name,
    "only the embedding": lambda name: "lm_head" in name,
}


@pytest.mark.parametrize("what", INCOMPLETE)
def test_half_a_vocabulary_is_refused_by_both(what: str, tmp_path: Path) -> None:
    made = Made(CASES["saved"], tmp_path)
    made.change(lambda tensors: {name: tensor for name, tensor in tensors.items() if not INCOMPLETE[what](name)})
    assert made.check(made.published).verdict == "incompatible"
    with pytest.raises(AdapterDoesNotFit, match=r"\[70, 16\] here, \[64, 16\] in the base"):
        made.plan(made.published)


def test_rows_beyond_a_vocabulary_that_isnt_brought_are_refused_by_both(tmp_path: Path) -> None:
    made = Made(Grown(CASES["tokens"].settings, save=False), tmp_path)
    assert made.check(made.resized).verdict == "fits"
    assert made.check(made.published).verdict == "incompatible"
    with pytest.raises(AdapterDoesNotFit):
        made.plan(made.published)


def test_a_resized_vocabulary_is_all_or_nothing(tmp_path: Path) -> None:
    made = Made(CASES["saved"], tmp_path)
    with pytest.raises(NotMergeable, match="resized"):
        made.plan(made.published, weight=0.5)
    with pytest.raises(NotMergeable, match="another size"):
        made.plan(made.published, method="ties")


def test_what_has_to_be_resized_first_is_said_of_each_runtime(tmp_path: Path) -> None:
    made = Made(CASES["lora-both"], tmp_path)
    said = made.runtimes(made.published)
    assert (said["peft"].loads, said["vllm"].loads) == ("with", "no")
    assert "resize_token_embeddings(70)" in str(said["peft"].as_json())
    assert made.runtimes(made.resized)["peft"].loads == "yes"


@pytest.mark.parametrize("name", ["saved", "lora-both", "tokens-tied"])
def test_formats_without_a_place_for_it_refuse_it(name: str, tmp_path: Path) -> None:
    made = Made(CASES[name], tmp_path)
    base = read_base(FolderFiles(made.published))
    for target in ("mlx", "gguf"):
        with pytest.raises(NotConvertible):
            convert(FolderFiles(made.adapter), target, base)


Tensors = dict[str, torch.Tensor]


def _changed(ending: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    def changing(tensors: Tensors) -> Tensors:
        assert any(name.endswith(ending) for name in tensors), ending
        return {name: change(value) if name.endswith(ending) else value for name, value in tensors.items()}

    return changing


def _renamed(ending: str, by: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {
        name.removesuffix(ending) + by if name.endswith(ending) else name: value for name, value in tensors.items()
    }


BROKEN: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    "the second copy is shorter": ("saved", _changed("lm_head.modules_to_save.weight", lambda t: t[:-1])),
    "the copy of the base is shorter": ("saved", _changed("lm_head.original_module.weight", lambda t: t[:-1])),
    "only the second copy is there": (
        "saved",
        lambda tensors: {name: value for name, value in tensors.items() if not name.endswith("lm_head.weight")},
    ),
    "the second copy is called otherwise": ("saved", _renamed("lm_head.modules_to_save.weight", "lm_head.kept.weight")),
    "the head is narrower": ("saved", _changed("lm_head.weight", lambda t: t[:, :-1])),
    "the copy under a LoRA is shorter": ("lora-both", _changed("lm_head.base_layer.weight", lambda t: t[:-1])),
    "the LoRA is shorter than its copy": ("lora-both", _changed("lora_embedding_A", lambda t: t[:, :-1])),
    "a token's row is missing": (
        "tokens-tied",
        _changed("lm_head.token_adapter.trainable_tokens_delta", lambda t: t[1:]),
    ),
    "rows are narrower": ("tokens-tied", _changed("trainable_tokens_delta", lambda t: t[:, 1:])),
    "rows are called otherwise": ("tokens", _renamed("trainable_tokens_delta", "trainable_delta")),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("which", ["resized", "published"])
def test_a_broken_vocabulary_never_fits(what: str, which: str, tmp_path: Path) -> None:
    name, change = BROKEN[what]
    made = Made(CASES[name], tmp_path)
    made.change(change)
    base = getattr(made, which)
    assert made.check(base).verdict == "incompatible"
    with pytest.raises((AdapterDoesNotFit, NotMergeable)):
        made.plan(base)
