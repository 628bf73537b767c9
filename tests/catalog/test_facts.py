"""What the catalog derives from a revision's files."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from builders import lora_config
from lorahub_registry.features.catalog.facts import MAX_TAG_LENGTH, MAX_TAGS, Facts, derive, gather

WEIGHTS = {"parameters": {"F32": 256}, "total": 256, "tensors": 4}


def facts_of(files: Mapping[str, str | bytes | dict[str, Any]], weights: Mapping[str, Any] | None = None) -> Facts:
    """`weights` adds safetensors files with these summaries."""

    def content(path: str) -> bytes:
        value = files[path]
        if isinstance(value, dict):
            value = json.dumps(value)
        return value if isinstance(value, bytes) else value.encode()

    def read(path: str, limit: int) -> bytes | None:
        return content(path)[:limit] if path in files else None

    found = dict(weights or {})
    return derive(gather([*files, *found], read, found))


def card(front_matter: str, body: str = "# A model\n") -> str:
    return f"---\n{front_matter}\n---\n{body}"


# --- goldens ----------------------------------------------------------------------------------------------------------


def test_facts_of_a_peft_adapter() -> None:
    found = facts_of(
        {
            "README.md": card(
                "base_model: meta-llama/Llama-3.1-8B\nlicense: llama3.1\nlanguage: [en, de]\ndatasets: [acme/chats]\n"
                "tags: [sql, lora]",
                "See https://arxiv.org/abs/2106.09685 and https://arxiv.org/abs/2106.09685.\n",
            ),
            "adapter_config.json": lora_config(base="meta-llama/Llama-3.1-8B", rank=8),
        },
        {"adapter_model.safetensors": WEIGHTS},
    )
    assert found.tags == [
        "peft",
        "safetensors",
        "lora",
        "sql",
        "text-generation",
        "en",
        "de",
        "dataset:acme/chats",
        "arxiv:2106.09685",
        "base_model:meta-llama/Llama-3.1-8B",
        "base_model:adapter:meta-llama/Llama-3.1-8B",
        "license:llama3.1",
    ]
    assert found.library_name == "peft"
    assert found.pipeline_tag == "text-generation"
    assert found.base_models == ["meta-llama/Llama-3.1-8B"]
    assert found.safetensors == {"parameters": {"F32": 256}, "total": 256}
    assert found.config == {
        "peft": {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "meta-llama/Llama-3.1-8B",
            "r": 8,
            "lora_alpha": 16,
        }
    }
    assert found.card_data is not None
    assert found.card_data["language"] == ["en", "de"]


def test_facts_of_a_diffusers_lora() -> None:
    found = facts_of(
        {"README.md": card("base_model: stabilityai/sdxl-base\nlicense: openrail++\ninstance_prompt: a cat")},
        {"pytorch_lora_weights.safetensors": WEIGHTS},
    )
    assert (found.library_name, found.pipeline_tag) == ("diffusers", "text-to-image")
    assert found.tags == [
        "diffusers",
        "safetensors",
        "lora",
        "text-to-image",
        "base_model:stabilityai/sdxl-base",
        "base_model:adapter:stabilityai/sdxl-base",
        "license:openrail++",
    ]


def test_facts_of_a_transformers_base_model() -> None:
    found = facts_of(
        {
            "README.md": card("license: apache-2.0"),
            "config.json": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16},
        },
        {
            "model-00001-of-00002.safetensors": {"parameters": {"BF16": 10, "F32": 1}, "total": 11},
            "model-00002-of-00002.safetensors": {"parameters": {"BF16": 5}, "total": 5},
        },
    )
    assert found.tags == ["transformers", "safetensors", "llama", "text-generation", "license:apache-2.0"]
    assert (found.library_name, found.pipeline_tag) == ("transformers", "text-generation")
    assert found.safetensors == {"parameters": {"BF16": 15, "F32": 1}, "total": 16}
    assert found.config == {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    assert found.base_models == []


def test_facts_of_a_diffusers_pipeline() -> None:
    found = facts_of(
        {"model_index.json": {"_class_name": "FluxPipeline"}},
        {"unet/model.safetensors": WEIGHTS, "vae/model.safetensors": WEIGHTS},
    )
    assert found.tags == ["diffusers", "safetensors", "diffusers:FluxPipeline"]
    assert found.safetensors == {"parameters": {"F32": 512}, "total": 512}


def test_a_revision_without_anything_known_has_no_tags() -> None:
    assert facts_of({".gitattributes": "* -text"}) == Facts(tags=[])


# --- which source counts ----------------------------------------------------------------------------------------------


def test_the_card_outranks_the_configurations() -> None:
    found = facts_of(
        {
            "README.md": card("library_name: mlx\npipeline_tag: summarization\nbase_model: acme/theirs"),
            "adapter_config.json": lora_config(base="acme/other"),
        }
    )
    assert (found.library_name, found.pipeline_tag, found.base_models) == ("mlx", "summarization", ["acme/theirs"])


def test_the_base_comes_from_the_configuration_when_the_card_names_none() -> None:
    assert facts_of({"adapter_config.json": lora_config(base="acme/base")}).tags[-2:] == [
        "base_model:acme/base",
        "base_model:adapter:acme/base",
    ]


@pytest.mark.parametrize(
    "path", ["/content/drive/model", "./out", "../base", "C:\\models\\llama", "a/b/c", "", "~/x", "models/llama/"]
)
def test_a_base_that_is_a_path_on_somebodys_machine_gives_no_tag(path: str) -> None:
    assert facts_of({"adapter_config.json": lora_config(base=path)}).base_models == []


@pytest.mark.parametrize(
    ("front_matter", "files", "relation"),
    [
        ("base_model: a/b", ["model.safetensors"], "finetune"),
        ("base_model: [a/b, c/d]", ["model.safetensors"], "merge"),
        ("base_model: a/b", ["model-Q4.gguf"], "quantized"),
        ("base_model: a/b\ntags: [lora]", ["model.safetensors"], "adapter"),
        ("base_model: a/b\nbase_model_relation: quantized\ntags: [lora]", [], "quantized"),
        ("base_model: a/b\nbase_model_relation: cousin", [], "finetune"),
    ],
)
def test_the_relation_to_the_base(front_matter: str, files: list[str], relation: str) -> None:
    found = facts_of({"README.md": card(front_matter), **dict.fromkeys(files, "")})
    assert f"base_model:{relation}:a/b" in found.tags


def test_checkpoints_below_the_finished_adapter_are_not_counted_again() -> None:
    found = facts_of({}, {"adapter_model.safetensors": WEIGHTS, "checkpoint-50/adapter_model.safetensors": WEIGHTS})
    assert found.safetensors == {"parameters": {"F32": 256}, "total": 256}


# --- hostile cards ----------------------------------------------------------------------------------------------------

_BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]"


@pytest.mark.parametrize(
    "front_matter",
    [
        _BOMB,
        "[" * 5000,
        "- a list",
        "key: [unclosed",
        "x: !!python/name:os.system ''",
        "x: !!binary aGVsbG8=",
        "x: .nan",
        "x: 1.0e+999",
        "x: " + "9" * 5000,
        'x: "\\0"',
        "a: 1\na: 2",
        "x: " + "y" * 40_000,
        "? [complex, key]\n: 1",
        "x: 2024-99-99",
    ],
)
def test_a_card_that_cannot_be_read_adds_nothing_and_raises_nothing(front_matter: str) -> None:
    found = facts_of({"README.md": card(front_matter)})
    assert found.card_data is None
    assert found.tags == []


@pytest.mark.parametrize(
    "front_matter",
    [
        "license: no\ntags: 5\nlanguage: {a: b}\ndatasets: [[x]]\nbase_model: 7\nlibrary_name: [1]\npipeline_tag: 1:30",
        "tags:\n- {nested: true}\n- null\n- 1.5",
        "base_model: {id: a/b}\nbase_model_relation: [adapter]",
        f"tags: [{'x' * (MAX_TAG_LENGTH + 1)}]",
        'tags: ["\\u202Egnp", "a\\tb", "   ", "\\x07"]',
        f"library_name: {'l' * 65}\npipeline_tag: {'p' * 65}",
    ],
)
def test_front_matter_of_the_wrong_types_gives_no_tags(front_matter: str) -> None:
    found = facts_of({"README.md": card(front_matter)})
    assert (found.tags, found.library_name, found.pipeline_tag) == ([], None, None)
    json.dumps(found.card_data, allow_nan=False).encode()


def test_tags_are_distinct_and_bounded() -> None:
    found = facts_of({"README.md": card("tags: [" + ", ".join(f"t{n % 500}" for n in range(1000)) + "]")})
    assert len(found.tags) == len(set(found.tags)) == MAX_TAGS


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"[1]", b"{", b'{"r": 0}', b'{"peft_type": 5}', b"[" * 100_000])
def test_an_adapter_config_that_cannot_be_read_adds_nothing(content: bytes) -> None:
    found = facts_of({"adapter_config.json": content, "config.json": content, "model_index.json": content})
    assert (found.config, found.base_models) == (None, [])
