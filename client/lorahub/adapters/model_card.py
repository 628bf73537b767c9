"""The metadata block of README.md: YAML between two `---` lines, parsed into JSON values or refused.

YAML from strangers: 300 bytes of aliases unfold to gigabytes, `no` means False, dates and binary can't be stored.
So: no aliases, no tags, a size and a depth, and only what JSON can say comes out.
"""

import math
import re
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from lorahub.adapters.limits import LIMITS

_BLOCK = re.compile(r"\A[ \t\r\n]*---[ \t]*\r?\n(.*?)(?:^---[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)

LICENSES = tuple(
    (
        "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
        "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear "
        "c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 "
        "cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 "
        "cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl "
        "ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 "
        "lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl "
        "openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr "
        "deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 "
        "llama4 grok2-community gemma unknown other"
    ).split()
)
"""The Hub's licence ids."""


@dataclass(frozen=True, slots=True)
class CardReport:
    """`metadata` is None where there is no block or it can't be used."""

    metadata: dict[str, Any] | None = None
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class _Refused(ValueError):
    pass


def validate_card(text: str) -> CardReport:
    """Everything wrong with the metadata of a card; never raises."""
    block = _BLOCK.match(text)
    if block is None or not block[1].strip():
        return CardReport(warnings=["empty or missing yaml metadata in repo card"])
    try:
        metadata = parse_front_matter(block[1])
    except ValueError as fault:
        return CardReport(errors=[str(fault)])
    return CardReport(metadata=metadata, errors=_faults(metadata))


def body_of(text: str) -> str:
    """What a card says below its metadata."""
    block = _BLOCK.match(text)
    return (text if block is None else text[block.end() :]).strip()


def _faults(metadata: dict[str, Any]) -> list[str]:
    faults = []
    licence = metadata.get("license")
    if licence is not None:
        listed = licence if isinstance(licence, list) else [licence]
        if not all(isinstance(one, str) and one.lower() in LICENSES for one in listed):
            faults.append(f'"license" must be one of [{", ".join(LICENSES)}]')
    if not isinstance(metadata.get("model-index", []), list):
        faults.append('"model-index" must be an array')
    for key in ("tags", "datasets", "metrics"):
        value = metadata.get(key)
        if value is not None and not isinstance(value, str | list):
            faults.append(f'"{key}" must be a text or a list of texts')
    return faults


def parse_front_matter(text: str) -> dict[str, Any]:
    """A mapping of JSON values. Raises `ValueError` with what is wrong."""
    import yaml

    if len(text.encode("utf-8", "replace")) > LIMITS.front_matter_bytes:
        raise ValueError(f"the metadata is longer than {LIMITS.front_matter_bytes} bytes")
    loader_class: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _require_plain(yaml.parse(text, Loader=loader_class))
        node = yaml.compose(text, Loader=loader_class)
        loader = yaml.SafeLoader("")
        value = _value(node, loader) if node is not None else {}
    except yaml.YAMLError as fault:
        raise ValueError(f"the metadata is not YAML: {fault}") from None
    except (RecursionError, OverflowError) as fault:
        raise ValueError(f"the metadata can't be used: {fault}") from None
    if not isinstance(value, dict):
        raise _Refused("the metadata must be a mapping of names to values")
    return value


def _require_plain(events: Any) -> None:
    """No anchors, no aliases, no explicit tags, bounded depth: checked on the events, before anything is built."""
    import yaml

    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _Refused("the metadata uses YAML anchors or aliases, which are not taken")
        if getattr(event, "tag", None) is not None:
            raise _Refused(f"the metadata uses the YAML tag {event.tag[:100]!r}; tags are not taken")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > LIMITS.yaml_depth:
            raise _Refused(f"the metadata is nested deeper than {LIMITS.yaml_depth}")


def _value(node: Any, loader: Any) -> Any:
    import yaml

    if isinstance(node, yaml.MappingNode):
        return _mapping(node, loader)
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, loader) for child in node.value]
    return _scalar(node, loader)


def _mapping(node: Any, loader: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value
        if not isinstance(key, str):
            raise _Refused("a key of the metadata is not a text")
        if key in found:
            raise _Refused(f"the key {key[:100]!r} stands twice in the metadata")
        found[_text(key)] = _value(value_node, loader)
    return found


def _scalar(node: Any, loader: Any) -> Any:
    plain = "tag:yaml.org,2002:"
    if node.tag not in {plain + kind for kind in ("str", "int", "float", "bool", "null", "timestamp")}:
        raise _Refused(f"the metadata uses the YAML tag {node.tag[:100]!r}, which is not taken")
    value = loader.construct_object(node)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise _Refused(f"the metadata has {node.value[:20]}, which is no finite number")
    if isinstance(value, int) and abs(value) > (1 << 63):
        raise _Refused("the metadata has a number of more than 64 bits")
    return value


def _text(text: str) -> str:
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise _Refused("the metadata has a character that can't be stored")
    return text
