"""Everything that goes wrong with adapters in the field, one at a time: each gives its own finding and no other.

A mutation takes a good adapter of the real PEFT and breaks one thing; the pair (verdict, rules) says what the checker
must see. Sources of the cases: the issue numbers in docs/rules.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus import golden
from lorahub.adapters.base_model import BaseLayout, read_base
from lorahub.adapters.check import check
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.findings import Finding
from lorahub.adapters.reader import read_adapter
from lorahub.adapters.weights import scan_weights
from safetensors.numpy import load_file, save_file

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
V2 = "base_model.model.model.layers.2.self_attn.v_proj"


@dataclass
class Broken:
    """An adapter in memory, to be changed in place."""

    tensors: dict[str, np.ndarray]
    config: dict[str, Any]
    extra: dict[str, bytes] = field(default_factory=dict)
    raw: bytes | None = None
    """Instead of the tensors."""

    def rename(self, old: str, new: str) -> None:
        self.tensors = {name.replace(old, new): array for name, array in self.tensors.items()}

    def drop(self, *parts: str) -> None:
        self.tensors = {name: array for name, array in self.tensors.items() if not all(part in name for part in parts)}

    def each(self, part: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.tensors = {name: change(array) if part in name else array for name, array in self.tensors.items()}


@dataclass(frozen=True)
class Mutation:
    change: Callable[[Broken], None]
    rules: frozenset[str]
    verdict: str = "incompatible"
    case: str = "lora"
    base: str | None = None


MUTATIONS: dict[str, Mutation] = {}


def mutation(*rules: str, verdict: str = "incompatible", case: str = "lora", base: str | None = None) -> Any:
    def add(change: Callable[[Broken], None]) -> Callable[[Broken], None]:
        MUTATIONS[change.__name__] = Mutation(change, frozenset(rules), verdict, case, base)
        return change

    return add


# --- names ------------------------------------------------------------------------------------------------------------


@mutation("LH201")
def module_renamed(it: Broken) -> None:
    it.rename("layers.0.self_attn.q_proj", "layers.0.self_attn.qkv_q_proj")


@mutation("LH210")
def every_module_renamed(it: Broken) -> None:
    it.rename("model.layers", "encoder.block")
    it.rename("self_attn.", "SelfAttention.")


@mutation("LH205")
def layer_beyond_the_last(it: Broken) -> None:
    it.rename("layers.2.", "layers.7.")
    it.config["layers_to_transform"] = [0, 1, 7]


@mutation("LH221", verdict="fits")
def trained_on_the_model_without_its_head(it: Broken) -> None:
    it.rename("base_model.model.model.", "base_model.model.")


@mutation("LH206")
def tensor_of_no_method(it: Broken) -> None:
    it.tensors[f"{Q0}.lora_C.weight"] = np.ones((4, 4), np.float32)


@mutation("LH215")
def module_twice_under_two_prefixes(it: Broken) -> None:
    it.tensors[f"{Q0.removeprefix('base_model.model.')}.lora_A.weight"] = it.tensors[f"{Q0}.lora_A.weight"].copy()


@mutation(verdict="fits")
def compiled_model_left_its_wrapper(it: Broken) -> None:
    it.rename("base_model.model.", "base_model.model._orig_mod.")


# --- factors ----------------------------------------------------------------------------------------------------------


@mutation("LH208")
def up_factor_missing(it: Broken) -> None:
    it.drop("layers.0.self_attn.q_proj", "lora_B")


@mutation("LH208")
def down_factor_missing(it: Broken) -> None:
    it.drop("layers.1.self_attn.v_proj", "lora_A")


@mutation("LH208", case="loha")
def hadamard_factor_missing(it: Broken) -> None:
    it.drop("layers.0.self_attn.q_proj", "hada_w2_b")


@mutation("LH208", case="lokr-both")
def kronecker_factor_missing(it: Broken) -> None:
    it.drop("layers.0.self_attn.q_proj", "lokr_w1_b")


@mutation("LH208", case="vera")
def vera_vector_missing(it: Broken) -> None:
    it.drop("layers.0.self_attn.q_proj", "vera_lambda_d")


@mutation("LH208", case="prompt")
def prompt_missing(it: Broken) -> None:
    it.tensors = {"base_model.model.model.norm.weight": np.ones(16, np.float32)}
    it.config["modules_to_save"] = ["norm"]


@mutation("LH209")
def tensor_emptied_by_zero_3(it: Broken) -> None:
    it.tensors[f"{Q0}.lora_A.weight"] = np.zeros((0,), np.float32)
    it.drop("layers.0.self_attn.q_proj", "lora_B")
    it.tensors[f"{Q0}.lora_B.weight"] = np.zeros((0,), np.float32)


@mutation("LH209")
def tensor_flattened_by_fsdp(it: Broken) -> None:
    it.each("layers.0.self_attn.q_proj.lora", np.ravel)


@mutation("LH209")
def file_of_forty_bytes(it: Broken) -> None:
    it.raw = (32).to_bytes(8, "little") + b'{"__metadata__":{"format":"pt"}}'


@mutation("LH220")
def factors_of_different_rank(it: Broken) -> None:
    it.tensors[f"{Q0}.lora_B.weight"] = np.ones((16, 8), np.float32)


@mutation("LH207", verdict="fits")
def a_layer_was_not_saved(it: Broken) -> None:
    it.drop("layers.1.self_attn.q_proj")


# --- shapes -----------------------------------------------------------------------------------------------------------


@mutation("LH202")
def wrong_output_width(it: Broken) -> None:
    it.tensors[f"{V2}.lora_B.weight"] = np.ones((16, 4), np.float32)


@mutation("LH202")
def wrong_input_width(it: Broken) -> None:
    it.tensors[f"{Q0}.lora_A.weight"] = np.ones((4, 20), np.float32)


@mutation("LH202", case="ia3")
def scaling_vector_of_another_width(it: Broken) -> None:
    it.each("layers.0.self_attn.k_proj", lambda _: np.ones((10, 1), np.float32))


@mutation("LH202", case="lora-conv")
def convolution_of_another_kernel(it: Broken) -> None:
    it.config["auto_mapping"] = None
    it.each("first.lora_A", lambda array: array[..., :1])


@mutation("LH202", case="lora-saved-modules")
def saved_norm_of_another_width(it: Broken) -> None:
    it.each("model.model.norm.weight", lambda _: np.ones(20, np.float32))


@mutation("LH204", case="lora-saved-modules")
def head_with_three_more_tokens(it: Broken) -> None:
    it.each("lm_head.weight", lambda array: np.concatenate([array, array[:3]]))


@mutation("LH204", case="lora-embedding")
def embedding_of_another_vocabulary(it: Broken) -> None:
    it.each("lora_embedding_A", lambda array: np.concatenate([array, array[:, :2]], axis=1))
    it.drop("base_layer")


@mutation("LH204", case="lora-token-rows")
def token_beyond_the_vocabulary(it: Broken) -> None:
    it.config["trainable_token_indices"] = {"embed_tokens": [3, 5, 64]}


@mutation("LH202", case="prefix")
def prefix_for_more_heads(it: Broken) -> None:
    it.each("prompt_embeddings", lambda _: np.ones((4, 96), np.float32))


@mutation("LH202", case="prompt")
def prompt_of_another_width(it: Broken) -> None:
    it.each("prompt_embeddings", lambda _: np.ones((4, 20), np.float32))


@mutation("LH202", case="lora-experts")
def another_number_of_experts(it: Broken) -> None:
    it.each("layers.0.mlp.experts.lora_A", lambda array: np.concatenate([array, array]))
    it.each("layers.0.mlp.experts.lora_B", lambda array: np.concatenate([array, array], axis=1))


@mutation("LH211", verdict="fits", case="lora-gpt2")
def orientation_flag_off(it: Broken) -> None:
    it.config["fan_in_fan_out"] = False


@mutation("LH211", verdict="fits", case="lora-all-linear")
def orientation_flag_on(it: Broken) -> None:
    it.config["fan_in_fan_out"] = True


# --- configuration ----------------------------------------------------------------------------------------------------


@mutation("LH203")
def rank_of_the_configuration_differs(it: Broken) -> None:
    it.config["r"] = 8


@mutation("LH203")
def rank_pattern_differs(it: Broken) -> None:
    it.config["rank_pattern"] = {"layers.1.self_attn.q_proj": 2}


@mutation("LH203")
def alpha_is_zero(it: Broken) -> None:
    it.config["lora_alpha"] = 0


@mutation("LH212", case="dora")
def dora_switched_off(it: Broken) -> None:
    it.config["use_dora"] = False


@mutation("LH212")
def dora_without_magnitudes(it: Broken) -> None:
    it.config["use_dora"] = True


@mutation("LH212", case="lora-bias-only")
def biases_that_are_switched_off(it: Broken) -> None:
    it.config["bias"] = "none"


@mutation("LH212", case="lora-up-bias")
def bias_of_the_up_factor_switched_off(it: Broken) -> None:
    it.config["auto_mapping"] = None
    it.config["lora_bias"] = False


@mutation("LH212")
def another_method_is_declared(it: Broken) -> None:
    it.config["peft_type"] = "LOHA"


@mutation("LH212", case="lora-token-rows")
def fewer_token_indices_than_rows(it: Broken) -> None:
    it.config["trainable_token_indices"] = {"embed_tokens": [3, 5]}


@mutation("LH212", case="prompt")
def another_number_of_virtual_tokens(it: Broken) -> None:
    it.config["num_virtual_tokens"] = 6


@mutation("LH213")
def target_removed_from_the_configuration(it: Broken) -> None:
    it.config["target_modules"] = ["q_proj"]


@mutation("LH213")
def module_is_excluded(it: Broken) -> None:
    it.config["exclude_modules"] = ["v_proj"]


@mutation("LH213", case="lora-saved-modules")
def saved_module_removed_from_the_configuration(it: Broken) -> None:
    it.config["modules_to_save"] = ["lm_head"]


@mutation("LH214", verdict="fits")
def target_misspelt(it: Broken) -> None:
    it.config["target_modules"] = ["q_proj", "v_proj", "k_prjo"]


@mutation("LH214", verdict="fits")
def pattern_matches_nothing(it: Broken) -> None:
    it.config["alpha_pattern"] = {"layers.9.self_attn.q_proj": 4}


@mutation("LH214", verdict="fits")
def saved_module_has_no_tensor(it: Broken) -> None:
    it.config["modules_to_save"] = ["lm_head"]


@mutation("LH216", verdict="fits")
def base_was_changed_by_loftq(it: Broken) -> None:
    it.config["init_lora_weights"] = "loftq"


@mutation("LH217", verdict="fits")
def setting_of_a_newer_library(it: Broken) -> None:
    it.config["use_hyper_lora"] = True


@mutation("LH306", verdict="undecided")
def method_of_a_newer_library(it: Broken) -> None:
    it.config["peft_type"] = "HYPERLORA"


@mutation("LH307", verdict="fits")
def configuration_names_code(it: Broken) -> None:
    it.config["auto_mapping"] = {"base_model_class": "Net", "parent_library": "my_models"}


@mutation("LH305")
def configuration_is_not_json(it: Broken) -> None:
    it.extra["adapter_config.json"] = b'{"r": 8,}'


@mutation("LH305")
def rank_is_absurd(it: Broken) -> None:
    it.config["r"] = 10**7


# --- the base ---------------------------------------------------------------------------------------------------------


@mutation("LH101", verdict="fits")
def another_base_is_named(it: Broken) -> None:
    it.config["base_model_name_or_path"] = "acme/other"


@mutation("LH104", verdict="fits")
def base_is_a_path(it: Broken) -> None:
    it.config["base_model_name_or_path"] = "/content/drive/MyDrive/llama"


@mutation("LH105", verdict="fits")
def no_base_is_named(it: Broken) -> None:
    it.config["base_model_name_or_path"] = None


@mutation("LH102", verdict="fits")
def another_revision_of_the_base(it: Broken) -> None:
    it.config["revision"] = "0e9e39f249a16976918f6564b8830bc894c89659"


@mutation("LH103", verdict="fits")
def recorded_weights_are_others(it: Broken) -> None:
    base = {"name": "acme/llama", "layout": "0" * 64}
    it.extra["lorahub.json"] = json.dumps({"schema": 1, "base": base}).encode()


@mutation("LH210", base="gpt2")
def checked_against_another_architecture(it: Broken) -> None:
    it.config["base_model_name_or_path"] = "acme/gpt2"


@mutation("LH202", base="llama-wide")
def checked_against_a_wider_base(it: Broken) -> None:
    it.config["base_model_name_or_path"] = "acme/llama-wide"


@mutation("LH205", base="llama-shallow")
def checked_against_a_shallower_base(it: Broken) -> None:
    it.config["base_model_name_or_path"] = "acme/llama-shallow"


@mutation("LH108", base="llama-incomplete")
def a_file_of_the_base_is_missing(it: Broken) -> None:
    it.config["base_model_name_or_path"] = "acme/llama-incomplete"


@mutation("LH107", verdict="undecided", base="llama-packed")
def the_base_is_quantised(it: Broken) -> None:
    it.config["base_model_name_or_path"] = "acme/llama-packed"


@mutation("LH501", verdict="fits", base="llama-noncommercial")
def the_base_forbids_what_the_adapter_allows(it: Broken) -> None:
    it.config["base_model_name_or_path"] = "acme/llama-noncommercial"
    it.extra["README.md"] = b"---\nlicense: mit\n---\n"


# --- the file ---------------------------------------------------------------------------------------------------------


@mutation("LH302")
def not_a_number(it: Broken) -> None:
    it.tensors[f"{Q0}.lora_B.weight"][3, 1] = np.nan


@mutation("LH302")
def infinite(it: Broken) -> None:
    it.tensors[f"{Q0}.lora_A.weight"][0, 0] = np.inf


@mutation("LH303", verdict="fits")
def untrained(it: Broken) -> None:
    it.each("lora_B", np.zeros_like)


@mutation("LH304")
def integers(it: Broken) -> None:
    it.each("q_proj.lora_A", lambda array: array.astype(np.int8))


@mutation("LH305")
def truncated(it: Broken) -> None:
    it.raw = b"cut"


@mutation("LH301")
def weights_are_a_pickle(it: Broken) -> None:
    it.raw = b""
    it.extra["adapter_model.bin"] = b"PK\x03\x04"


@mutation("LH308")
def weights_are_missing(it: Broken) -> None:
    it.raw = b""


@mutation("LH309", verdict="fits")
def manifest_has_another_file(it: Broken) -> None:
    files = [{"path": "adapter_model.safetensors", "bytes": 7, "sha256": "0" * 64}]
    it.extra["lorahub.json"] = json.dumps({"schema": 1, "files": files}).encode()


@mutation("LH305", verdict="incompatible")
def manifest_is_of_another_schema(it: Broken) -> None:
    it.extra["lorahub.json"] = json.dumps({"schema": 7}).encode()


@mutation("LH309", verdict="fits")
def manifest_says_another_rank(it: Broken) -> None:
    facts = {"rank": 16, "method": "lora"}
    it.extra["lorahub.json"] = json.dumps({"schema": 1, "adapter": facts}).encode()


# --- the test ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bases() -> Mapping[str, BaseLayout]:
    known = {name: read_base(FolderFiles(path), name=f"acme/{name}") for name, path in golden.bases().items()}
    return {name: base.named(f"acme/{name}", revision="5f1c2aa0" + "0" * 32) for name, base in known.items()}


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_fault_has_its_own_finding(name: str, bases: Mapping[str, BaseLayout], tmp_path: Path) -> None:
    it = MUTATIONS[name]
    original = golden.adapters()[it.case]
    broken = _load(original.folder)
    it.change(broken)
    _write(broken, tmp_path)
    base = bases[it.base or original.base]

    files = FolderFiles(tmp_path)
    adapter = read_adapter(files)
    report = check(adapter, base)
    data = [] if broken.raw is not None else scan_weights(files, adapter)
    found: list[Finding] = [*report.findings, *data]

    coverage = report.coverage
    assert coverage.used + coverage.named == coverage.of == len(adapter.tensors)
    rules = [one.rule for one in found]
    assert sorted(rules) == sorted(it.rules), found
    assert "LH302" in rules or report.verdict == it.verdict
    for one in found:
        assert one.message
        assert one.hint
        assert one.evidence or one.rule == "LH107", one


def test_there_are_enough_kinds() -> None:
    assert len(MUTATIONS) >= 60


def _load(folder: Path) -> Broken:
    tensors = {name: array.copy() for name, array in load_file(folder / "adapter_model.safetensors").items()}
    return Broken(tensors, json.loads((folder / "adapter_config.json").read_text()))


def _write(broken: Broken, folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(broken.config))
    weights = folder / "adapter_model.safetensors"
    if broken.raw is None:
        save_file({name: np.ascontiguousarray(array) for name, array in broken.tensors.items()}, weights)
    elif broken.raw:
        weights.write_bytes(broken.raw)
    for name, content in broken.extra.items():
        (folder / name).write_bytes(content)
