"""Reads any adapter: finds out which format the files are in, and hands them to its reader."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from lorahub.adapters.adapter import UNKNOWN, Adapter, BaseClaim
from lorahub.adapters.adapter_config import is_hub_id
from lorahub.adapters.content import Content
from lorahub.adapters.coverage import untold
from lorahub.adapters.file_kinds import check_file, fault_of_name, is_by_product
from lorahub.adapters.files import Files, read_whole
from lorahub.adapters.findings import Evidence, Finding, finding
from lorahub.adapters.formats import FORMATS
from lorahub.adapters.formats.opened import CONFIG, Opened, open_weights
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.manifest import MANIFEST, AdapterManifest, parse_manifest
from lorahub.adapters.model_card import validate_card
from lorahub.errors import InvalidAdapter, InvalidAdapterConfig, UnsafeFile

__all__ = ["CONFIG", "is_adapter", "licence_of", "read_adapter", "weights_file"]

_WEIGHTS = (
    "adapter_model.safetensors",
    "adapters.safetensors",
    "adapter.safetensors",
    "pytorch_lora_weights.safetensors",
)
_EMPTY_RULES = frozenset({"tensor-empty", "no-tensors"})


def is_adapter(files: Files) -> bool:
    """Whether the files look like an adapter's rather than a base model's."""
    names = set(files.sizes)
    return CONFIG in names or any(name in names for name in _WEIGHTS)


def read_adapter(files: Files) -> Adapter:
    """The adapter in these files, from headers and configuration. Never raises: what is wrong is a finding."""
    adapter = _read(files)
    manifest, faults = _manifest(files)
    claim = _claim(adapter.claim, manifest, files)
    found = [*adapter.findings, *faults, *(_about_base(claim) if adapter.has_format else ())]
    if manifest is not None:
        found += manifest.differences(adapter, files)
    training = None if manifest is None else manifest.training
    found += untold(adapter)
    return replace(adapter, claim=claim, findings=tuple(found), licence=licence_of(files), training=training)


def _read(files: Files) -> Adapter:
    path = weights_file(files)
    if path is None:
        return _without_weights(files)
    try:
        opened = open_weights(files, path)
        for one in FORMATS:
            if one.recognises(opened):
                adapter = one.read(opened)
                return replace(adapter, tensors=adapter.tensors or opened.names)
    except InvalidAdapterConfig as error:
        return _unreadable(CONFIG, error)
    except InvalidAdapter as error:
        return _unreadable(path, error)
    return _unrecognised(opened)


def weights_file(files: Files) -> str | None:
    """Where the weights are: a name that a library writes, else the only file of a known kind at the top."""
    for name in _WEIGHTS:
        if name in files.sizes:
            return name
    top = [path for path in files.sizes if "/" not in path]
    for ending in (".safetensors", ".gguf"):
        found = [path for path in top if path.endswith(ending)]
        if len(found) == 1:
            return found[0]
    return None


def _without_weights(files: Files) -> Adapter:
    pickles = [path for path in files.sizes if _is_pickle(files, path)]
    if pickles:
        found = finding("LH301", f"the weights are a pickle: {pickles[0]}", (Evidence(path) for path in pickles))
    else:
        several = [path for path in files.sizes if path.endswith((".safetensors", ".gguf"))]
        what = f"several files could be them: {', '.join(several[:5])}" if several else "no file holds weights"
        found = finding("LH308", what, (Evidence(path) for path in several or _WEIGHTS[:1]))
    return Adapter(UNKNOWN, UNKNOWN, findings=(found,))


def _is_pickle(files: Files, path: str) -> bool:
    """Weights, that is; a `.bin` file says by its content whether it is one."""
    if fault_of_name(path) is not None:
        return not is_by_product(path)
    if not path.endswith(".bin"):
        return False
    try:
        check_file(path, Content(lambda start, stop: files.read(path, start, stop), files.sizes[path]))
    except UnsafeFile:
        return True
    return False


def _unreadable(path: str, error: InvalidAdapter) -> Adapter:
    rule = error.facts.get("rule")
    known = "LH209" if rule in _EMPTY_RULES else "LH305"
    found = finding(known, f"{path}: {error.message}", [Evidence(path, str(rule) if rule else None)], hint=error.hint)
    return Adapter(UNKNOWN, UNKNOWN, findings=(found,), weights_file=None if path == CONFIG else path)


def _unrecognised(opened: Opened) -> Adapter:
    if any("lora_A." in name for name in opened.names):
        found = finding(
            "LH308", f"{CONFIG} is missing: PEFT's tensors are there, their scale isn't", [Evidence(CONFIG)]
        )
    else:
        found = finding(
            "LH306", "the tensors' names belong to no known format", (Evidence(name) for name in opened.names)
        )
    return Adapter(UNKNOWN, UNKNOWN, findings=(found,), weights_file=opened.path, tensors=opened.names)


# --- which base -------------------------------------------------------------------------------------------------------


def _manifest(files: Files) -> tuple[AdapterManifest | None, list[Finding]]:
    raw = read_whole(files, MANIFEST, limit=LIMITS.config_bytes + 1)
    if raw is None:
        return None, []
    try:
        return parse_manifest(raw), []
    except InvalidAdapterConfig as error:
        return None, [finding("LH305", error.message, [Evidence(MANIFEST)], hint=error.hint)]


def _claim(claim: BaseClaim, manifest: AdapterManifest | None, files: Files) -> BaseClaim:
    """lorahub.json knows most; then the configuration; then the card."""
    if manifest is not None and manifest.base is not None:
        return replace(manifest.base, names_all_files=claim.names_all_files)
    if claim.name is not None:
        return claim
    card = read_whole(files, "README.md", limit=LIMITS.card_bytes)
    named = _named_by_card(card)
    return replace(claim, name=named) if named else claim


def _named_by_card(card: bytes | None) -> str | None:
    metadata: Mapping[str, Any] = (validate_card((card or b"").decode("utf-8", "replace")).metadata) or {}
    value = metadata.get("base_model")
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, str) and first else None


def licence_of(files: Files) -> str | None:
    """As the card names it, in lower case."""
    card = read_whole(files, "README.md", limit=LIMITS.card_bytes)
    value = (validate_card((card or b"").decode("utf-8", "replace")).metadata or {}).get("license")
    return value.lower() if isinstance(value, str) else None


def _about_base(claim: BaseClaim) -> Iterable[Finding]:
    if not claim.name and not claim.layout and not claim.files:
        yield finding("LH105", "nothing says which base it is for", [Evidence("base_model_name_or_path")])
    elif claim.name and not is_hub_id(claim.name) and ("/" in claim.name or "\\" in claim.name):
        evidence = [Evidence("base_model_name_or_path", claim.name[:200])]
        yield finding("LH104", f"the base is named by a path: {claim.name[:200]}", evidence)
