"""What the catalog says of a revision, derived from its files and nothing else; pure.

The rules are the Hub's: a card outranks adapter_config.json, which outranks config.json. Whatever can't be understood
adds nothing: a revision that was accepted always has facts. Everything is bounded, because all of it is listed,
indexed and shown.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorahub.adapters.adapter_config import AdapterConfig, is_hub_id, parse_adapter_config
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.model_card import validate_card
from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidAdapterConfig, MalformedBody

MAX_TAGS = 200
MAX_TAG_LENGTH = 300  # characters; the column's
MAX_NAME_LENGTH = 64  # characters; of a library, a task or a model type
MAX_BASE_MODELS = 20

RELATIONS = ("adapter", "finetune", "merge", "quantized")
DIFFUSERS_LORA_FILES = frozenset({"pytorch_lora_weights.safetensors"})

_PEFT_TASKS = {
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": "text2text-generation",
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "feature-extraction",
}
_ARCHITECTURE_TASKS = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForImageClassification": "image-classification",
    "ForCTC": "automatic-speech-recognition",
}
_ARXIV = re.compile(r"arxiv\.org/(?:abs|pdf)/([0-9]{4}\.[0-9]{4,5})")
_HUB = "https://huggingface.co/"

Json = Mapping[str, Any]

Read = Callable[[str, int], bytes | None]
"""At most the first n bytes of the file at a path; None where there is no such file."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a revision says of itself. A file that is missing or unreadable is None or an empty mapping."""

    paths: Sequence[str]
    card: dict[str, Any] | None = None
    """The front matter of README.md, JSON-ready; None where there is none or it can't be read."""
    card_text: str = ""
    adapter: AdapterConfig | None = None
    config: Json = field(default_factory=dict)
    model_index: Json = field(default_factory=dict)
    safetensors: Mapping[str, Json] = field(default_factory=dict)
    """By path: `{"parameters": {dtype: count}, "total": count}` as `blobs.inspection` found it."""
    measured: Sequence[str] = ()
    """Tags from a check of the adapter: `rank:16`, `fits:vllm`."""

    @property
    def front_matter(self) -> Json:
        return self.card or {}

    @property
    def is_peft(self) -> bool:
        return self.adapter is not None and self.adapter.peft_type is not None

    @property
    def has_diffusers_lora(self) -> bool:
        return not DIFFUSERS_LORA_FILES.isdisjoint(self.paths)


@dataclass(frozen=True, slots=True)
class Facts:
    """As the Hub's model info shows them. `tags` are distinct, at most `MAX_TAGS`."""

    tags: list[str]
    card_data: dict[str, Any] | None = None
    library_name: str | None = None
    pipeline_tag: str | None = None
    safetensors: dict[str, Any] | None = None
    """`{"parameters": {dtype: count}, "total": count}`."""
    config: dict[str, Any] | None = None

    @property
    def base_models(self) -> list[str]:
        """Names of the base models; a name holds no colon, a relation's tag has one more."""
        return [tag.partition(":")[2] for tag in self.tags if tag.startswith("base_model:") and tag.count(":") == 1]


def gather(
    paths: Sequence[str], read: Read, safetensors: Mapping[str, Json], *, measured: Sequence[str] = ()
) -> Evidence:
    """Reads the few files that describe a revision, each within its limit. Never raises for what they hold."""
    card_text = (read("README.md", LIMITS.card_bytes) or b"").decode("utf-8", "replace")
    return Evidence(
        paths=paths,
        card=validate_card(card_text).metadata,
        card_text=card_text,
        adapter=_adapter_config(read),
        config=_json_file(read, "config.json"),
        model_index=_json_file(read, "model_index.json"),
        safetensors=safetensors,
        measured=measured,
    )


def _adapter_config(read: Read) -> AdapterConfig | None:
    content = read("adapter_config.json", LIMITS.config_bytes)
    try:
        return None if content is None else parse_adapter_config(content)
    except InvalidAdapterConfig:
        return None


def _json_file(read: Read, path: str) -> Json:
    try:
        value = parse_json(read(path, LIMITS.config_bytes) or b"{}", error=MalformedBody)
    except MalformedBody:
        return {}
    return value if isinstance(value, dict) else {}


def derive(evidence: Evidence) -> Facts:
    return Facts(
        tags=_bounded(_tags(evidence)),
        card_data=evidence.card,
        library_name=library_of(evidence),
        pipeline_tag=task_of(evidence),
        safetensors=_parameters(evidence.safetensors),
        config=_summary(evidence) or None,
    )


def library_of(evidence: Evidence) -> str | None:
    """The library that loads the revision."""
    named = _text(evidence.front_matter.get("library_name"), limit=MAX_NAME_LENGTH)
    if named is not None:
        return named
    if evidence.is_peft:
        return "peft"
    if evidence.has_diffusers_lora or "model_index.json" in evidence.paths:
        return "diffusers"
    if "modules.json" in evidence.paths:
        return "sentence-transformers"
    return "transformers" if {"model_type", "architectures"} & evidence.config.keys() else None


def task_of(evidence: Evidence) -> str | None:
    """The Hub's name of what the model does."""
    named = _text(evidence.front_matter.get("pipeline_tag"), limit=MAX_NAME_LENGTH)
    if named is not None:
        return named
    if evidence.adapter is not None and evidence.adapter.task_type in _PEFT_TASKS:
        return _PEFT_TASKS[evidence.adapter.task_type]
    if evidence.has_diffusers_lora:
        return "text-to-image"
    architecture = next(_texts(evidence.config.get("architectures")), "")
    return next((task for ending, task in _ARCHITECTURE_TASKS.items() if architecture.endswith(ending)), None)


def base_models_of(evidence: Evidence) -> list[str]:
    """Names of base models, without revisions, as the card gives them, else as adapter_config.json does."""
    named = list(_texts(evidence.front_matter.get("base_model")))
    if not named and evidence.adapter is not None:
        named = list(_texts(evidence.adapter.base_model))
    ids = (name.removeprefix(_HUB).removeprefix("hf:").partition("@")[0] for name in named)
    return list(dict.fromkeys(name for name in ids if is_hub_id(name)))[:MAX_BASE_MODELS]


def relation_of(evidence: Evidence, base_models: Sequence[str]) -> str:
    """How the revision was made from its base models; the card's word is final."""
    stated = evidence.front_matter.get("base_model_relation")
    if stated in RELATIONS:
        return str(stated)
    if (
        evidence.adapter is not None
        or evidence.has_diffusers_lora
        or "lora" in _texts(evidence.front_matter.get("tags"))
    ):
        return "adapter"
    if "quantization_config" in evidence.config or any(path.endswith(".gguf") for path in evidence.paths):
        return "quantized"
    return "merge" if len(base_models) > 1 else "finetune"


# --- tags -------------------------------------------------------------------------------------------------------------


def _tags(evidence: Evidence) -> Iterator[str]:
    """In the order they are shown: what loads it, what it is, what its author says, what it comes from, its terms."""
    card = evidence.front_matter
    yield from filter(None, [library_of(evidence)])
    yield from _format_tags(evidence)
    yield from _texts(card.get("tags"))
    yield from filter(None, [task_of(evidence)])
    yield from _texts(card.get("language"))
    yield from (f"dataset:{name}" for name in _texts(card.get("datasets")))
    yield from (f"arxiv:{number}" for number in _ARXIV.findall(evidence.card_text))
    yield from _base_model_tags(evidence)
    yield from (f"license:{name.lower()}" for name in _texts(card.get("license")))
    yield from evidence.measured


def _format_tags(evidence: Evidence) -> Iterator[str]:
    if any(path.endswith(".safetensors") for path in evidence.paths):
        yield "safetensors"
    if any(path.endswith(".gguf") for path in evidence.paths):
        yield "gguf"
    pipeline = _text(evidence.model_index.get("_class_name"), limit=MAX_NAME_LENGTH)
    if pipeline is not None:
        yield f"diffusers:{pipeline}"
    yield from filter(None, [_text(evidence.config.get("model_type"), limit=MAX_NAME_LENGTH)])
    adapter_type = _text(evidence.adapter.peft_type, limit=MAX_NAME_LENGTH) if evidence.adapter else None
    if adapter_type is not None:
        yield adapter_type.lower()
    if evidence.has_diffusers_lora:
        yield "lora"


def _base_model_tags(evidence: Evidence) -> Iterator[str]:
    base_models = base_models_of(evidence)
    relation = relation_of(evidence, base_models)
    for name in base_models:
        yield f"base_model:{name}"
        yield f"base_model:{relation}:{name}"


def _bounded(tags: Iterable[str]) -> list[str]:
    """Each once, in order. What is too long for a tag is none."""
    usable = dict.fromkeys(tag for tag in tags if len(tag) <= MAX_TAG_LENGTH)
    return list(usable)[:MAX_TAGS]


# --- numbers and configuration ----------------------------------------------------------------------------------------


def _parameters(files: Mapping[str, Json]) -> dict[str, Any] | None:
    """The sum over the files at the top, where loaders look; over all of them if there are none (a pipeline's folders).

    Checkpoints below a finished adapter, and Meta's `consolidated` copy of a sharded model, are not counted twice.
    """
    weights = {path: found for path, found in files.items() if not path.startswith("consolidated")} or files
    top = {path: found for path, found in weights.items() if "/" not in path} or weights
    parameters: dict[str, int] = {}
    for path in sorted(top):
        for dtype, count in top[path]["parameters"].items():
            parameters[dtype] = parameters.get(dtype, 0) + count
    return {"parameters": parameters, "total": sum(parameters.values())} if top else None


def _summary(evidence: Evidence) -> dict[str, Any]:
    """The few lines of config.json and adapter_config.json that a list of models has use for."""
    architectures = list(_texts(evidence.config.get("architectures")))[:8]
    summary = {
        "model_type": _text(evidence.config.get("model_type"), limit=MAX_NAME_LENGTH),
        "architectures": architectures or None,
        "peft": _present(_peft_summary(evidence.adapter)) if evidence.adapter else None,
    }
    return _present(summary)


def _peft_summary(adapter: AdapterConfig) -> dict[str, Any]:
    return {
        "peft_type": adapter.peft_type,
        "task_type": adapter.task_type,
        "base_model_name_or_path": adapter.base_model,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
    }


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _texts(value: object) -> Iterator[str]:
    """A word, or the words of a list; everything else is left out (YAML reads `no`, `1.0` and dates as other types)."""
    candidates = value if isinstance(value, list) else [value]
    for candidate in candidates[:MAX_TAGS]:
        text = _text(candidate)
        if text is not None:
            yield text


def _text(value: object, *, limit: int = MAX_TAG_LENGTH) -> str | None:
    """Printable text of 1 to `limit` characters. Not printable: controls, NUL, surrogates, direction marks."""
    if not isinstance(value, str):
        return None
    text = value.strip()
    return text if 0 < len(text) <= limit and text.isprintable() else None
