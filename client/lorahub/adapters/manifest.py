"""lorahub.json: what is known of an adapter and of its base, beside the adapter's own files.

`lorahub push` and `lorahub train` write it; the checker compares it with what it measures. Unknown values are null.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lorahub.adapters.adapter import Adapter, BaseClaim
from lorahub.adapters.base_model import BaseModel
from lorahub.adapters.findings import Evidence, Finding, finding
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidAdapterConfig

MANIFEST = "lorahub.json"
SCHEMA = 1
ORIGINS = ("trained", "external", "merged", "converted")

_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Manifest:
    """`adapter` has measured facts by name, `raw` the whole object."""

    base: BaseClaim | None
    adapter: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)

    def differences(self, adapter: Adapter) -> list[Finding]:
        """LH309 for each fact that is stated and measured differently."""
        measured = measured_facts(adapter)
        wrong = [
            Evidence(name, _text(stated), _text(measured[name]))
            for name, stated in self.adapter.items()
            if name in measured and stated is not None and stated != measured[name]
        ]
        if not wrong or not adapter.is_known:
            return []
        first = wrong[0]
        return [
            finding(
                "LH309",
                f"lorahub.json says {first.name} is {first.found}, measured is {first.expected}",
                wrong,
            )
        ]


def measured_facts(adapter: Adapter) -> dict[str, Any]:
    """What the header shows: the facts that lorahub.json repeats and the registry serves."""
    ranks = adapter.ranks
    scales = sorted({round(update.scale, 9) for update in adapter.updates})
    return {
        "format": adapter.format,
        "method": adapter.method,
        "rank": ranks[-1] if ranks else None,
        "ranks": ranks,
        "scales": scales[:64],
        "targets": sorted({update.leaf for update in adapter.updates})[:256],
        "modules": len(adapter.updates),
        "parts": sorted({part.kind.value for part in adapter.parts}),
        "dtypes": sorted(adapter.dtypes),
        "parameters": adapter.parameters,
    }


def write_manifest(adapter: Adapter, base: BaseModel | None, *, origin: str = "external") -> bytes:
    """lorahub.json for the adapter, deterministic; the base's digests where it is known."""
    value = {
        "schema": SCHEMA,
        "origin": origin,
        "base": _described(adapter.claim, base),
        "adapter": measured_facts(adapter),
    }
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _described(claim: BaseClaim, base: BaseModel | None) -> dict[str, Any]:
    if base is None:
        return {
            "name": claim.name,
            "revision": claim.revision,
            "layout": claim.layout,
            "weights": claim.weights,
            "files": dict(claim.files),
        }
    return {
        "name": claim.name if claim.name in base.names else base.name,
        "revision": base.revision,
        "layout": base.layout_digest,
        "weights": base.weights_digest,
        "files": dict(base.files),
    }


def parse_manifest(raw: bytes) -> Manifest:
    """Raises `InvalidAdapterConfig` for what isn't a lorahub.json of this schema."""
    value = parse_json(raw, error=InvalidAdapterConfig, max_bytes=LIMITS.config_bytes)
    if not isinstance(value, dict):
        raise InvalidAdapterConfig("lorahub.json is not a JSON object", hint="delete it; lorahub push writes it anew")
    if value.get("schema") != SCHEMA:
        raise InvalidAdapterConfig(
            f"lorahub.json has the schema {str(value.get('schema'))[:40]}; this version reads {SCHEMA}",
            hint="use a newer lorahub, or delete the file; lorahub push writes it anew",
        )
    base, adapter = value.get("base"), value.get("adapter")
    return Manifest(
        _base(base) if isinstance(base, dict) else None, adapter if isinstance(adapter, dict) else {}, value
    )


def _base(value: Mapping[str, Any]) -> BaseClaim | None:
    files = value.get("files")
    sums = files if isinstance(files, dict) else {}
    digests = [value.get("layout"), value.get("weights"), *sums.values()]
    if any(digest is not None and not is_sha256(digest) for digest in digests):
        raise InvalidAdapterConfig(
            "a digest of the base in lorahub.json is not 64 lower-case hex digits",
            hint="delete the file; lorahub push writes it anew",
        )
    name, revision = value.get("name"), value.get("revision")
    claim = BaseClaim(
        name if isinstance(name, str) else None,
        revision if isinstance(revision, str) else None,
        value.get("layout"),
        value.get("weights"),
        dict(sums),
    )
    return claim if claim.name or claim.layout or claim.files else None


def is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= _HEX


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)[:200]
