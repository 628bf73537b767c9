"""adapter_config.json: what PEFT was told when the adapter was made.

Read, never run: some of its keys name code to import, files to unpickle or patterns to compile. None of that happens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorahub.adapters.limits import LIMITS
from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidAdapterConfig

_DANGEROUS = {
    "megatron_config": "is handed to code that PEFT imports",
    "corda_config": "names files that PEFT unpickles",
    "eva_config": "may name files that PEFT reads",
}


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What the file declares; what the weights measure may differ. `raw` is the whole object."""

    peft_type: str | None
    task_type: str | None
    base_model: str | None
    base_revision: str | None
    rank: int | None
    alpha: float | None
    target_modules: tuple[str, ...] | str | None
    raw: Mapping[str, Any]

    @property
    def warnings(self) -> list[str]:
        """What a reader should know before loading this with PEFT."""
        found = [f"`{key}` {why}" for key, why in _DANGEROUS.items() if self.raw.get(key)]
        if not _is_of_transformers(self.raw.get("auto_mapping")):
            found.append("`auto_mapping` names a library that PEFT imports")
        if self.base_model and not is_hub_id(self.base_model):
            found.append(f"`base_model_name_or_path` is a path on somebody's machine: {self.base_model[:200]}")
        return found


def parse_adapter_config(content: bytes) -> AdapterConfig:
    """Raises `InvalidAdapterConfig`."""
    raw = parse_json(content, error=InvalidAdapterConfig, hint="write adapter_config.json again with save_pretrained")
    if not isinstance(raw, dict):
        raise InvalidAdapterConfig("adapter_config.json is not a JSON object", hint="write it with save_pretrained")
    return AdapterConfig(
        peft_type=_text(raw, "peft_type"),
        task_type=_text(raw, "task_type"),
        base_model=_text(raw, "base_model_name_or_path"),
        base_revision=_text(raw, "revision"),
        rank=None if raw.get("r") == 0 and raw.get("peft_type") == "OFT" else _rank(raw.get("r")),
        alpha=_alpha(raw.get("lora_alpha")),
        target_modules=_targets(raw.get("target_modules")),
        raw=raw,
    )


def is_hub_id(name: str) -> bool:
    """Whether a base's name is one that a hub could know: at most one slash, no path.

    >>> is_hub_id("meta-llama/Llama-3.1-8B"), is_hub_id("/content/drive/model"), is_hub_id("./out")
    (True, False, False)
    """
    parts = name.split("/")
    usable = all(part and part.strip(".") and all(c.isalnum() or c in "._-" for c in part) for part in parts)
    return len(parts) <= 2 and usable and name.isascii() and len(name) <= 193


def _is_of_transformers(mapping: Any) -> bool:
    """PEFT writes where the base's class came from whenever no task is set; its own default is harmless."""
    library = mapping.get("parent_library") if isinstance(mapping, dict) else mapping
    return library is None or (isinstance(library, str) and library.startswith("transformers."))


def _text(raw: Mapping[str, Any], key: str) -> str | None:
    value = raw.get(key)
    if value is None or (isinstance(value, str) and len(value) <= 1000):
        return value
    raise InvalidAdapterConfig(f"`{key}` of adapter_config.json is not a text of at most 1000 characters")


def _rank(value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LIMITS.rank):
        return value
    raise InvalidAdapterConfig(f"`r` is {str(value)[:40]}; a rank is a whole number from 1 to {LIMITS.rank}")


def _alpha(value: Any) -> float | None:
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and abs(value) <= LIMITS.lora_alpha:
        return float(value)
    raise InvalidAdapterConfig(
        f"`lora_alpha` is {str(value)[:40]}; it is a finite number of at most {LIMITS.lora_alpha}"
    )


def _targets(value: Any) -> tuple[str, ...] | str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise InvalidAdapterConfig("`target_modules` is neither a text nor a list of texts")
