"""Reads any adapter: finds out which format the files are in, and hands them to its reader."""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from lorahub.adapters.adapter import Adapter, BaseClaim
from lorahub.adapters.adapter_config import is_hub_id, parse_adapter_config
from lorahub.adapters.content import Content
from lorahub.adapters.file_kinds import check_file, fault_of_name, is_by_product
from lorahub.adapters.files import Files, header_of, read_whole
from lorahub.adapters.findings import Evidence, Finding, finding
from lorahub.adapters.formats.adapterhub import is_adapterhub, read_adapterhub
from lorahub.adapters.formats.diffusers import is_diffusers, read_diffusers
from lorahub.adapters.formats.gguf import read_gguf_adapter
from lorahub.adapters.formats.kohya import is_kohya, read_kohya
from lorahub.adapters.formats.mlx import is_mlx, read_mlx
from lorahub.adapters.formats.own import is_own, is_own_config, read_own, read_own_config
from lorahub.adapters.formats.peft import read_peft
from lorahub.adapters.formats.plain import is_loralib, is_torchtune, read_loralib, read_torchtune
from lorahub.adapters.gguf_file import read_gguf
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.manifest import MANIFEST, Manifest, parse_manifest
from lorahub.adapters.model_card import validate_card
from lorahub.adapters.safetensors_header import SafetensorsHeader
from lorahub.errors import InvalidAdapter, InvalidAdapterConfig, InvalidSafetensors, UnsafeFile

CONFIG = "adapter_config.json"
_WEIGHTS = (
    "adapter_model.safetensors",
    "adapters.safetensors",
    "adapter.safetensors",
    "pytorch_lora_weights.safetensors",
)
_EMPTY_RULES = frozenset({"tensor-empty", "no-tensors"})
_MOST_ALPHAS = 16_384


def is_adapter(files: Files) -> bool:
    """Whether the files look like an adapter's rather than a base model's."""
    names = set(files.sizes)
    return CONFIG in names or any(name in names for name in _WEIGHTS)


def read_adapter(files: Files) -> Adapter:
    """The adapter in these files, from headers and configuration. Never raises: what is wrong is a finding."""
    adapter = _read(files)
    manifest, faults = _manifest(files)
    claim = _claim(adapter.claim, manifest, files)
    found = [*adapter.findings, *faults, *(_about_base(claim) if adapter.format != "unknown" else ())]
    if manifest is not None:
        found += manifest.differences(adapter, files)
    training = None if manifest is None else manifest.training
    return replace(adapter, claim=claim, findings=tuple(found), licence=licence_of(files), training=training)


def _read(files: Files) -> Adapter:
    path = weights_file(files)
    if path is None:
        return _without_weights(files)
    try:
        if path.endswith(".gguf"):
            header = read_gguf(
                lambda start, stop: files.read(path, start, stop),
                size=files.sizes[path],
                max_header_bytes=LIMITS.header_bytes,
            )
            return read_gguf_adapter(header, weights_file=path)
        return _read_safetensors(files, path)
    except InvalidAdapterConfig as error:
        return _unreadable(CONFIG, error)
    except InvalidAdapter as error:
        return _unreadable(path, error)


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
    return Adapter("unknown", "unknown", findings=(found,))


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
    return Adapter("unknown", "unknown", findings=(found,), weights_file=None if path == CONFIG else path)


def _read_safetensors(files: Files, path: str) -> Adapter:
    header = header_of(files, path, allow_empty=True)
    if not header.tensors:
        raise InvalidSafetensors("the file holds no tensor", hint="gather the weights before saving", rule="no-tensors")
    names = [entry.name for entry in header.tensors]
    config = _config(files)
    if config is not None:
        if is_mlx(config.raw):
            return read_mlx(config.raw, header.tensors, weights_file=path)
        if is_adapterhub(config.raw):
            return read_adapterhub(config.raw, header.tensors, weights_file=path)
        if is_own_config(config):
            return read_own_config(config, header.tensors, weights_file=path)
        return read_peft(config, header.tensors, weights_file=path)
    return _by_names(files, path, header, names)


def _by_names(files: Files, path: str, header: SafetensorsHeader, names: list[str]) -> Adapter:
    if is_own(header.metadata):
        return read_own(header.tensors, header.metadata, weights_file=path)
    if is_kohya(names):
        return read_kohya(header.tensors, header.metadata, weights_file=path, alphas=read_alphas(files, path, header))
    if is_diffusers(names):
        alphas = {_component(module): value for module, value in read_alphas(files, path, header).items()}
        return read_diffusers(header.tensors, header.metadata, weights_file=path, alphas=alphas)
    if is_torchtune(names):
        return read_torchtune(header.tensors, header.metadata, weights_file=path)
    if is_loralib(names):
        return read_loralib(header.tensors, header.metadata, weights_file=path)
    if any("lora_A." in name for name in names):
        found = finding(
            "LH308", f"{CONFIG} is missing: PEFT's tensors are there, their scale isn't", [Evidence(CONFIG)]
        )
    else:
        found = finding(
            "LH306", "the tensors' names belong to no known format", (Evidence(name) for name in names[:20])
        )
    return Adapter("unknown", "unknown", findings=(found,), weights_file=path)


def _component(module: str) -> str:
    return f"transformer.{module.removeprefix('diffusion_model.')}" if module.startswith("diffusion_model.") else module


def _config(files: Files) -> Any:
    raw = read_whole(files, CONFIG, limit=LIMITS.config_bytes + 1)
    if raw is None:
        return None
    if len(raw) > LIMITS.config_bytes:
        raise InvalidAdapterConfig(f"{CONFIG} has more than {LIMITS.config_bytes} bytes")
    return parse_adapter_config(raw)


def read_alphas(files: Files, path: str, header: SafetensorsHeader) -> dict[str, float]:
    """The value of each `<module>.alpha`, a few bytes each: the header alone doesn't have them."""
    found: dict[str, float] = {}
    for entry in header.tensors[: 4 * _MOST_ALPHAS]:
        if entry.name.endswith(".alpha") and entry.elements == 1 and len(found) < _MOST_ALPHAS:
            raw = files.read(path, header.data_start + entry.start, header.data_start + entry.stop)
            value = _number(entry.dtype, raw)
            if value is not None:
                found[entry.name.removesuffix(".alpha")] = value
    return found


def _number(dtype: str, raw: bytes) -> float | None:
    if dtype == "BF16":
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    code = {"F32": "<f", "F16": "<e", "F64": "<d", "I64": "<q", "I32": "<i"}.get(dtype)
    return None if code is None else float(struct.unpack(code, raw)[0])


# --- which base -------------------------------------------------------------------------------------------------------


def _manifest(files: Files) -> tuple[Manifest | None, list[Finding]]:
    raw = read_whole(files, MANIFEST, limit=LIMITS.config_bytes + 1)
    if raw is None:
        return None, []
    try:
        return parse_manifest(raw), []
    except InvalidAdapterConfig as error:
        return None, [finding("LH305", error.message, [Evidence(MANIFEST)], hint=error.hint)]


def _claim(claim: BaseClaim, manifest: Manifest | None, files: Files) -> BaseClaim:
    """lorahub.json knows most; then the configuration; then the card."""
    if manifest is not None and manifest.base is not None:
        return manifest.base
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
