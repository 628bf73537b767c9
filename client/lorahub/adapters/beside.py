"""What an adapter was trained with beside the base's weights, and loses when the base moves: tokenizer, chat template,
special tokens, generation defaults.

`lorahub train` records them in lorahub.json; an adapter's folder may hold its own tokenizer, which says the same.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from lorahub.adapters.files import Files, read_whole
from lorahub.adapters.findings import Evidence, Finding, finding
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidAdapterConfig

TOKENIZERS = ("tokenizer.json", "tokenizer.model")
TEMPLATE = "chat_template.jinja"
_SPECIAL = ("bos_token", "eos_token", "unk_token")
"""Not `pad_token`: trainers set it, and no answer changes by it."""
_GENERATION = (
    "do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "length_penalty", "num_beams",
    "max_length", "max_new_tokens", "bos_token_id", "eos_token_id",
)  # fmt: skip
_MOST_HASHED = 64 << 20


def facts_beside(files: Files) -> dict[str, Any]:
    """What lorahub.json records of a base's folder: null where there is none."""
    template = template_of(files)
    return {
        "tokenizer": tokenizer_digest(files),
        "chat_template": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
        "special_tokens": special_tokens(files),
        "generation": generation_defaults(files),
    }


def differences_beside(stated: Mapping[str, Any], adapter: Files, base: Files) -> Iterator[Finding]:
    """LH110 to LH113, each with the first difference. `stated` is the `base` of lorahub.json; what it doesn't say is
    taken from the adapter's own files, and what these don't either can't be told.
    """
    own = facts_beside(adapter)
    recorded = {key: own[key] if stated.get(key) is None else stated[key] for key in own}
    now = facts_beside(base)
    if _differ(recorded["tokenizer"], now["tokenizer"]):
        evidence = [Evidence("tokenizer", now["tokenizer"], recorded["tokenizer"])]
        yield finding("LH110", "the base's tokenizer is another one than the adapter was trained with", evidence)
    if _differ(recorded["chat_template"], now["chat_template"]):
        yield _of_templates(recorded["chat_template"], now["chat_template"], template_of(adapter), template_of(base))
    yield from _of_tables("LH112", "special token", recorded["special_tokens"], now["special_tokens"])
    yield from _of_tables("LH113", "generation default", recorded["generation"], now["generation"])


def _differ(recorded: Any, now: Any) -> bool:
    return isinstance(recorded, str) and isinstance(now, str) and recorded != now


def _of_templates(recorded: str, now: str, own: str | None, base: str | None) -> Finding:
    evidence = [Evidence("chat_template", now, recorded)]
    if own is None or base is None or hashlib.sha256(own.encode()).hexdigest() != recorded:
        return finding("LH111", "the base's chat template is another one than the adapter was trained with", evidence)
    before, after = own.split("\n"), base.split("\n")
    length = max(len(before), len(after))
    padded = zip(before + [""] * (length - len(before)), after + [""] * (length - len(after)), strict=True)
    number, (expected, found) = next((n, pair) for n, pair in enumerate(padded, 1) if pair[0] != pair[1])
    first = Evidence(f"line {number}", found[:200], expected[:200])
    return finding("LH111", f"the base's chat template differs from line {number} on", [first, *evidence])


def _of_tables(rule: str, what: str, recorded: Any, now: Any) -> Iterator[Finding]:
    if not isinstance(recorded, Mapping) or not isinstance(now, Mapping):
        return
    differs = [
        Evidence(key, json.dumps(now[key])[:200], json.dumps(recorded[key])[:200])
        for key in recorded
        if key in now and recorded[key] != now[key]
    ]
    if differs:
        first = differs[0]
        yield finding(rule, f"the {what} {first.name} is {first.found} now, and was {first.expected}", differs)


# --- what files say ---------------------------------------------------------------------------------------------------


def tokenizer_digest(files: Files) -> str | None:
    path = next((name for name in TOKENIZERS if name in files.sizes), None)
    if path is None:
        return None
    known = files.sha256(path)
    if known is not None or files.sizes[path] > _MOST_HASHED:
        return known
    return hashlib.sha256(read_whole(files, path, limit=_MOST_HASHED) or b"").hexdigest()


def template_of(files: Files) -> str | None:
    """The file's, or the one inside tokenizer_config.json."""
    alone = read_whole(files, TEMPLATE, limit=LIMITS.config_bytes)
    if alone is not None:
        return alone.decode("utf-8", "replace")
    inside = _table(files, "tokenizer_config.json").get("chat_template")
    return inside if isinstance(inside, str) else None


def special_tokens(files: Files) -> dict[str, str] | None:
    said = {**_table(files, "special_tokens_map.json"), **_table(files, "tokenizer_config.json")}
    found = {key: _content(said[key]) for key in _SPECIAL if said.get(key) is not None}
    return {key: text for key, text in found.items() if text is not None} or None


def _content(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def generation_defaults(files: Files) -> dict[str, Any] | None:
    said = _table(files, "generation_config.json")
    return {key: said[key] for key in _GENERATION if said.get(key) is not None} or None


def _table(files: Files, path: str) -> dict[str, Any]:
    """Empty where it isn't there, or is no JSON object."""
    raw = read_whole(files, path, limit=LIMITS.config_bytes + 1)
    if raw is None:
        return {}
    try:
        value = parse_json(raw, error=InvalidAdapterConfig, max_bytes=LIMITS.config_bytes)
    except InvalidAdapterConfig:
        return {}
    return value if isinstance(value, dict) else {}
