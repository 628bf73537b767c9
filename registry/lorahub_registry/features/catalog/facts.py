"""What the catalog says of a revision, derived from its files and nothing else; pure.

The rules are the Hub's: a card outranks adapter_config.json, which outranks config.json. Whatever can't be understood
adds nothing: a revision that was accepted always has facts. Everything is bounded, because all of it is listed,
indexed and shown.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorahub.errors import InvalidName
from lorahub.protocol.names import parse_name

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


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a revision says of itself. A file that is missing or unreadable is an empty mapping."""

    paths: Sequence[str]
    card: dict[str, Any] | None = None
    """The front matter of README.md, JSON-ready; None where there is none or it can't be read."""
    card_text: str = ""
    adapter_config: Json = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    model_index: Json = field(default_factory=dict)
    safetensors: Mapping[str, Json] = field(default_factory=dict)
    """By path: `{"parameters": {dtype: count}, "total": count}` as `blobs.inspection` found it."""

    @property
    def front_matter(self) -> Json:
        return self.card or {}

    @property
    def is_peft(self) -> bool:
        return "peft_type" in self.adapter_config

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
    if evidence.is_peft:
        return _PEFT_TASKS.get(str(evidence.adapter_config.get("task_type")))
    if evidence.has_diffusers_lora:
        return "text-to-image"
    architecture = next(_texts(evidence.config.get("architectures")), "")
    return next((task for ending, task in _ARCHITECTURE_TASKS.items() if architecture.endswith(ending)), None)


def base_models_of(evidence: Evidence) -> list[str]:
    """Names of base models, as the card gives them, else as adapter_config.json does."""
    named = list(_texts(evidence.front_matter.get("base_model")))
    if not named:
        named = list(_texts(evidence.adapter_config.get("base_model_name_or_path")))
    ids = (_hub_id(name) for name in named)
    return list(dict.fromkeys(name for name in ids if name is not None))[:MAX_BASE_MODELS]


def relation_of(evidence: Evidence, base_models: Sequence[str]) -> str:
    """How the revision was made from its base models; the card's word is final."""
    stated = evidence.front_matter.get("base_model_relation")
    if stated in RELATIONS:
        return str(stated)
    if evidence.adapter_config or evidence.has_diffusers_lora or "lora" in _texts(evidence.front_matter.get("tags")):
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


def _format_tags(evidence: Evidence) -> Iterator[str]:
    if any(path.endswith(".safetensors") for path in evidence.paths):
        yield "safetensors"
    if any(path.endswith(".gguf") for path in evidence.paths):
        yield "gguf"
    pipeline = _text(evidence.model_index.get("_class_name"), limit=MAX_NAME_LENGTH)
    if pipeline is not None:
        yield f"diffusers:{pipeline}"
    yield from filter(None, [_text(evidence.config.get("model_type"), limit=MAX_NAME_LENGTH)])
    adapter_type = _text(evidence.adapter_config.get("peft_type"), limit=MAX_NAME_LENGTH)
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


def _hub_id(text: str) -> str | None:
    """`namespace/name`, or a bare name as the Hub's oldest models have; None for what can only be a path."""
    name = text.removeprefix(_HUB)
    parts = name.split("/")
    try:
        for part in parts:
            parse_name(part, what="name")
    except InvalidName:
        return None
    return name if len(parts) <= 2 else None


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
    summary = _scalars(evidence.config, "model_type")
    architectures = list(_texts(evidence.config.get("architectures")))[:8]
    if architectures:
        summary["architectures"] = architectures
    if evidence.is_peft:
        summary["peft"] = _scalars(
            evidence.adapter_config, "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "use_dora"
        )
    return summary


def _scalars(source: Json, *names: str) -> dict[str, Any]:
    return {name: source[name] for name in names if name in source and _is_small_scalar(source[name])}


def _is_small_scalar(value: object) -> bool:
    if isinstance(value, str):
        return _text(value) is not None
    return isinstance(value, int | float) and abs(value) < 2**53  # what every JSON reader keeps exactly; False for NaN


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
