"""lorahub.json: what is known of an adapter and of its base, beside the adapter's own files.

`lorahub push` and `lorahub train` write it; the checker compares it with what it measures. Unknown values are null.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lorahub.adapters.adapter import Adapter, BaseClaim
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.check import check
from lorahub.adapters.files import Files, read_whole
from lorahub.adapters.findings import Evidence, Finding, finding
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.runtimes import AskConverter, judge_runtimes, newest
from lorahub.adapters.strict_json import parse_json
from lorahub.adapters.training_record import training_record
from lorahub.errors import InvalidAdapterConfig

MANIFEST = "lorahub.json"
SCHEMA = 1
ORIGINS = ("trained", "external", "merged", "converted")

_BESIDE = ("config", "tokenizer", "chat_template", "special_tokens", "generation", "quantisation")
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class StatedFile:
    """One of the adapter's own files, as it was when the manifest was written."""

    path: str
    size: int
    sha256: str

    def differences(self, files: Files) -> Iterator[Evidence]:
        size = files.sizes.get(self.path)
        if size is None:
            return  # files may come one commit at a time
        known = files.sha256(self.path)
        if size != self.size:
            yield Evidence(self.path, f"{self.size} bytes", f"{size} bytes")
        elif known is not None and known != self.sha256:
            yield Evidence(self.path, self.sha256, known)


@dataclass(frozen=True, slots=True)
class AdapterManifest:
    """`adapter` has measured facts by name, `training` what its maker says of it, `raw` the whole object."""

    base: BaseClaim | None
    adapter: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[StatedFile, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None

    def differences(self, adapter: Adapter, files: Files) -> list[Finding]:
        """LH309 for what is stated and measured differently: facts, sizes, and digests where they are known."""
        measured = measured_facts(adapter)
        wrong = [
            Evidence(name, _text(stated), _text(measured[name]))
            for name, stated in self.adapter.items()
            if name in measured and stated is not None and stated != measured[name]
        ]
        wrong += [piece for stated in self.files for piece in stated.differences(files)]
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


def write_manifest(
    adapter: Adapter,
    base: BaseLayout | None,
    converter: AskConverter,
    *,
    files: Iterable[StatedFile] = (),
    before: Mapping[str, Any] | None = None,
) -> bytes:
    """lorahub.json for the adapter, deterministic; the base's digests where it is known.

    What only its maker knows (origin, data, run, code, hardware, parents) is taken from `before`, else null.
    """
    known = before or {}
    value = {
        "schema": SCHEMA,
        "origin": known.get("origin", "external"),
        "base": _described(adapter.claim, base) | _beside(known.get("base")),
        "adapter": measured_facts(adapter),
        "files": [{"path": one.path, "bytes": one.size, "sha256": one.sha256} for one in files],
        "compatibility": {
            judged.runtime: {
                "loads": judged.loads.value,
                "needs": judged.needs,
                "reasons": [r for r, _ in judged.reasons],
            }
            for judged in judge_runtimes(adapter, base, check(adapter, base).findings, newest(), converter)
        },
        **{key: known.get(key) for key in ("data", "run", "code", "hardware", "parents")},
    }
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _beside(before: Any) -> dict[str, Any]:
    """What the weights were trained beside: digests of config, tokenizer and chat template; special tokens and
    generation defaults; how they were quantised.
    """
    return {key: before[key] for key in _BESIDE if key in before} if isinstance(before, Mapping) else {}


def _described(claim: BaseClaim, base: BaseLayout | None) -> dict[str, Any]:
    if base is None:
        return {
            "name": claim.name,
            "revision": claim.revision,
            "layout": claim.layout,
            "weights": claim.weights,
            "files": dict(claim.files),
        }
    return {
        "name": claim.name if claim.name in base.names else base.name or claim.name,
        "revision": base.revision,
        "layout": base.layout_digest,
        "weights": base.weights_digest,
        "files": dict(base.files),
    }


def parse_manifest(raw: bytes) -> AdapterManifest:
    """Raises `InvalidAdapterConfig` for what isn't a lorahub.json of this schema."""
    value = parse_json(raw, error=InvalidAdapterConfig, max_bytes=LIMITS.config_bytes)
    if not isinstance(value, dict):
        raise InvalidAdapterConfig("lorahub.json is not a JSON object", hint="delete it; lorahub push writes it anew")
    if value.get("schema") != SCHEMA:
        raise InvalidAdapterConfig(
            f"lorahub.json has the schema {str(value.get('schema'))[:40]}; this version reads {SCHEMA}",
            hint="use a newer lorahub, or delete the file; lorahub push writes it anew",
        )
    base, adapter, origin = value.get("base"), value.get("adapter"), value.get("origin")
    if origin is not None and origin not in ORIGINS:
        raise InvalidAdapterConfig(
            f"lorahub.json has the origin {str(origin)[:60]!r}", hint=f"one of: {', '.join(ORIGINS)}"
        )
    return AdapterManifest(
        _base(base) if isinstance(base, dict) else None,
        adapter if isinstance(adapter, dict) else {},
        tuple(_files(value.get("files"))),
        value,
        training_record(value),
    )


def read_stated_base(files: Files) -> Mapping[str, Any]:
    """What lorahub.json says of the base; nothing where there is none that can be read."""
    raw = read_whole(files, MANIFEST, limit=LIMITS.config_bytes + 1)
    try:
        base = None if raw is None else parse_manifest(raw).raw.get("base")
    except InvalidAdapterConfig:
        return {}
    return base if isinstance(base, dict) else {}


def _files(value: Any) -> Iterator[StatedFile]:
    for entry in value if isinstance(value, list) else []:
        path, size, digest = (
            (entry.get(key) for key in ("path", "bytes", "sha256")) if isinstance(entry, dict) else (None,) * 3
        )
        if not isinstance(path, str) or not isinstance(size, int) or not isinstance(digest, str):
            raise _bad_files()
        if not is_sha256(digest):
            raise _bad_files()
        yield StatedFile(path, size, digest)


def _bad_files() -> InvalidAdapterConfig:
    return InvalidAdapterConfig(
        "`files` of lorahub.json is not a list of path, bytes and sha256",
        hint="delete the file; lorahub push writes it anew",
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
