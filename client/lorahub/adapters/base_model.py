r"""A base model as far as headers tell: its layout, its configuration, and the digests that identify it.

Only headers are read, a few kilobytes a file. The digests are those of docs/format.md:

A GGUF file and a quantised checkpoint have the layout of the weights that they stand for (`gguf_base.py`, `packed.py`),
and digests of their own, for their dtypes differ.

layout   sha256 of `lorahub-base-layout-v1\\n` and a line `name\\tdtype\\td0,d1,…\\n` for each tensor, by name
weights  the same with `lorahub-base-weights-v1\\n` and `\\t<sha256 of the tensor's bytes>` behind each line
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from lorahub.adapters import gguf_base
from lorahub.adapters.base_tensor import PACKED_BITS, BaseTensor, is_dtype
from lorahub.adapters.files import Files, header_of, read_whole
from lorahub.adapters.findings import Evidence, Finding, finding
from lorahub.adapters.gguf_file import GgufHeader, GgufValue, read_gguf
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.model_card import validate_card
from lorahub.adapters.packed import is_packed, unpacked
from lorahub.adapters.rules import Severity
from lorahub.adapters.safetensors_header import SafetensorsHeader
from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidBaseModel, InvalidGguf, InvalidSafetensors

__all__ = [
    "BaseLayout",
    "BaseTensor",
    "base_from_text",
    "lacks_shards",
    "parse_layout",
    "places_of",
    "read_base",
    "weight_files",
]

LAYOUT_LINE = "lorahub-base-layout-v1\n"
WEIGHTS_LINE = "lorahub-base-weights-v1\n"

_INDEXES = ("model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json")
_SINGLE = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.safetensors")
_NOT_WEIGHTS = ("adapter_model", "adapters.", "adapter.", "pytorch_lora_weights", "consolidated", "model_head")
_GGUF = ".gguf"
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)")
_NOT_GGUF_WEIGHTS = ("mmproj", "imatrix", "ggml-lora", "adapter")


@dataclass(frozen=True)
class BaseLayout:
    """`tensors` by name. In a pipeline of several models, names begin with the folder: `unet.down_blocks.0…`."""

    tensors: Mapping[str, BaseTensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    revision: str | None = None
    names: frozenset[str] = frozenset()
    """Every name it is known by."""
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of the weight files, by path, as far as known."""
    findings: tuple[Finding, ...] = ()

    @cached_property
    def layout_digest(self) -> str:
        return hashlib.sha256(self.layout_text().encode()).hexdigest()

    @cached_property
    def weights_digest(self) -> str | None:
        """None where the weights weren't read."""
        if not self.has_weights:
            return None
        return hashlib.sha256((WEIGHTS_LINE + "".join(self._lines(with_bytes=True))).encode()).hexdigest()

    @property
    def has_weights(self) -> bool:
        return bool(self.tensors) and all(tensor.sha256 for tensor in self.tensors.values())

    def layout_text(self) -> str:
        return LAYOUT_LINE + "".join(self._lines(with_bytes=False))

    def weights_text(self) -> str | None:
        return WEIGHTS_LINE + "".join(self._lines(with_bytes=True)) if self.has_weights else None

    def _lines(self, *, with_bytes: bool) -> Iterator[str]:
        for name, tensor in sorted(self.tensors.items(), key=lambda item: item[0].encode()):
            shape = ",".join(map(str, tensor.shape))
            yield f"{name}\t{tensor.dtype}\t{shape}{f'{chr(9)}{tensor.sha256}' if with_bytes else ''}\n"

    @property
    def parameters(self) -> int:
        total = 0
        for tensor in self.tensors.values():
            elements = 1
            for size in tensor.shape:
                elements *= size
            total += elements
        return total

    @property
    def bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors.values())

    @property
    def dtypes(self) -> list[str]:
        return sorted({tensor.dtype for tensor in self.tensors.values()})

    @property
    def licence(self) -> str | None:
        """What the card says, which is kept beside the configuration."""
        value = self.config.get("license")
        return value if isinstance(value, str) else None

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The part of config.json that describes the language model."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @property
    def model_type(self) -> str | None:
        value = self.config.get("model_type")
        return value if isinstance(value, str) else None

    @property
    def architecture(self) -> str | None:
        """`LlamaForCausalLM`; a pipeline's is its class."""
        named = self.config.get("architectures")
        first = named[0] if isinstance(named, list) and named else self.config.get("_class_name")
        return first if isinstance(first, str) else None

    @property
    def is_language_model(self) -> bool:
        """By its architecture."""
        return (self.architecture or "").endswith(_OF_LANGUAGE)

    @property
    def quantisation(self) -> str | None:
        """How the weights are kept, as config.json says it: gptq, fp8, gguf."""
        said = self.config.get("quantization_config")
        method = said.get("quant_method") if isinstance(said, dict) else None
        return method if isinstance(method, str) else None

    @cached_property
    def is_quantised(self) -> bool:
        is_said = "quantization_config" in self.config
        return is_said or any(_is_part(name, one) or one.dtype in PACKED_BITS for name, one in self.tensors.items())

    @cached_property
    def unknown(self) -> tuple[str, ...]:
        """Tensors of which nobody knows what weights they are: packed in another way, or without a name."""
        is_gguf = self.quantisation == gguf_base.METHOD
        own = gguf_base.is_unnamed if is_gguf else (lambda _: False)
        return tuple(name for name, one in self.tensors.items() if own(name) or _is_part(name, one))

    def named(self, *names: str, revision: str | None = None) -> "BaseLayout":
        """The same base, known by these names too."""
        return replace(self, name=self.name or names[0], revision=revision, names=self.names | set(names))


_OF_LANGUAGE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForSequenceClassification")
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def _is_part(name: str, tensor: BaseTensor) -> bool:
    """Whether it holds packed numbers; scales alone are no weight."""
    return tensor.dtype not in _FLOATS and is_packed(name)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_base(
    files: Files,
    *,
    name: str | None = None,
    digest: Callable[[str], str | None] | None = None,
    sums: Mapping[str, str] | None = None,
) -> BaseLayout:
    """The base in these files, from headers alone.

    `digest(path)` is the sha256 of a file, `sums` have that of the bytes of each stored tensor, where somebody knows
    them. Raises `InvalidBaseModel` where no weights are there, or a header is malformed.
    """
    config = _json(files, "model_index.json") or _json(files, "config.json")
    stored = _Stored(files, sums or {})
    findings: list[Finding] = []
    digests: dict[str, str] = {}
    for prefix, folder in _components(files):
        paths, found = _weight_files(files, folder)
        findings += found
        for path in paths:
            stored.add(prefix, path)
            known = digest(path) if digest else None
            if known:
                digests[path] = known
        findings += _against_index(files, folder, stored.tensors, prefix)
    if not stored.tensors:
        raise InvalidBaseModel(
            "no weights are there: a base model has *.safetensors files, or a GGUF file",
            hint="name the folder or repository that holds model.safetensors and config.json",
        )
    if stored.metadata is not None:
        tensors, said = gguf_base.standing_for(stored.metadata, stored.tensors)
        config = {**said, **config}
    else:
        tensors = unpacked(stored.tensors, config, stored.read)
    if licence := _licence(files):
        config = {**config, "license": licence}
    base = BaseLayout(tensors, config, name, names=frozenset([name] if name else []), files=digests)
    return replace(base, findings=(*findings, *_quantised(base)))


class _Stored:
    """The tensors of the weight files, as they lie there. `metadata` is that of a GGUF file."""

    def __init__(self, files: Files, sums: Mapping[str, str]) -> None:
        self._files = files
        self._sums = sums
        self._places: dict[str, tuple[str, int, int]] = {}
        self.tensors: dict[str, BaseTensor] = {}
        self.metadata: Mapping[str, GgufValue] | None = None

    def add(self, prefix: str, path: str) -> None:
        header = _header(self._files, path)
        if isinstance(header, GgufHeader):
            self.metadata = {**header.metadata, **(self.metadata or {})}
            shapes = {one.name: (one.ggml_type, one.shape) for one in header.tensors}
        else:
            shapes = {one.name: (one.dtype, one.shape) for one in header.tensors}
        for own, start, stop in _places(header):
            name = prefix + own
            if name in self.tensors:
                raise InvalidBaseModel(f"the tensor {name} is in two files, {path} is one of them")
            self.tensors[name] = BaseTensor(*shapes[own], self._sums.get(name))
            self._places[name] = (path, start, stop)

    def read(self, name: str) -> bytes:
        path, start, stop = self._places.get(name, ("", 0, 0))
        return self._files.read(path, start, stop) if path else b""


def weight_files(files: Files) -> list[tuple[str, str]]:
    """The files that hold the base's weights: (prefix of the tensors' names, path)."""
    return [(prefix, path) for prefix, folder in _components(files) for path in _weight_files(files, folder)[0]]


def _components(files: Files) -> list[tuple[str, str]]:
    """(prefix of tensor names, folder): one for a plain model, one for each part of a diffusers pipeline."""
    if "model_index.json" not in files.sizes:
        return [("", "")]
    folders = {path.split("/")[0] for path in files.sizes if path.count("/") == 1 and path.endswith(".safetensors")}
    return [(f"{folder}.", f"{folder}/") for folder in sorted(folders)]


def _weight_files(files: Files, folder: str) -> tuple[list[str], list[Finding]]:
    for name in _INDEXES:
        if folder + name in files.sizes:
            return _shards(files, folder, name)
    for name in _SINGLE:
        if folder + name in files.sizes:
            return [folder + name], []
    here = [path for path in files.sizes if path.startswith(folder) and "/" not in path[len(folder) :]]
    names = [path for path in here if path.endswith(".safetensors")]
    found = [path for path in names if not path[len(folder) :].startswith(_NOT_WEIGHTS)]
    return (found, []) if found else _gguf_files(path for path in here if path.endswith(_GGUF))


def _gguf_files(paths: Iterable[str]) -> tuple[list[str], list[Finding]]:
    """One model's: a file, or its shards."""
    names = {path: path.rpartition("/")[2] for path in paths}
    models: dict[str, list[str]] = {}
    for path, name in sorted(names.items()):
        if not name.lower().startswith(_NOT_GGUF_WEIGHTS):
            models.setdefault(_SHARD.sub("", path), []).append(path)
    if len(models) > 1:
        raise InvalidBaseModel(
            f"{len(models)} models are there: {', '.join(path for found in models.values() for path in found[:1])}",
            hint="name one of the files",
        )
    found = next(iter(models.values()), [])
    lacks = [finding("LH108", "some parts of the GGUF file are missing", map(Evidence, found))]
    return found, lacks if lacks_shards(found) else []


def _shards(files: Files, folder: str, index: str) -> tuple[list[str], list[Finding]]:
    placed = _json(files, folder + index).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(path, str) for path in placed.values()):
        raise InvalidBaseModel(f"{folder}{index} has no weight_map from tensors to files")
    named = sorted({folder + path for path in placed.values()})
    missing = [path for path in named if path not in files.sizes]
    if not missing:
        return named, []
    broken = finding(
        "LH108", f"{len(missing)} of {len(named)} weight files are missing", (Evidence(path) for path in missing)
    )
    return [path for path in named if path in files.sizes], [broken]


def _against_index(files: Files, folder: str, tensors: Mapping[str, BaseTensor], prefix: str) -> Iterator[Finding]:
    index = next((folder + name for name in _INDEXES if folder + name in files.sizes), None)
    if index is None:
        return
    placed = _json(files, index).get("weight_map")
    complete = isinstance(placed, dict) and all(folder + str(path) in files.sizes for path in placed.values())
    absent = [name for name in placed if prefix + name not in tensors] if complete and isinstance(placed, dict) else []
    if absent:
        yield finding("LH108", f"{len(absent)} tensors of {index} are in no file", (Evidence(name) for name in absent))


def _quantised(base: BaseLayout) -> Iterator[Finding]:
    how = (base.quantisation or "packed").upper()
    if base.unknown:
        told = f"{len(base.unknown)} tensors ({how}) are not understood, first {base.unknown[0]}"
        yield finding("LH107", told, (Evidence(name) for name in base.unknown))
    elif base.is_quantised:
        told = f"the base's weights are quantised ({how}): compared are the shapes of the weights they stand for"
        yield finding(
            "LH107",
            told,
            hint="load the adapter beside it; to merge, take the 16-bit model it was made from",
            severity=Severity.NOTE,
        )


def places_of(files: Files, path: str) -> list[tuple[str, int, int]]:
    """(name, first byte, byte behind the last) of the tensors of a weight file. Raises `InvalidBaseModel`."""
    return _places(_header(files, path))


def _places(header: SafetensorsHeader | GgufHeader) -> list[tuple[str, int, int]]:
    start = header.data_start
    return [(entry.name, start + entry.start, start + entry.stop) for entry in header.tensors]


def _header(files: Files, path: str) -> SafetensorsHeader | GgufHeader:
    try:
        return _gguf_header(files, path) if path.endswith(_GGUF) else header_of(files, path, allow_empty=True)
    except (InvalidGguf, InvalidSafetensors) as error:
        raise InvalidBaseModel(f"{path}: {error.message}", hint=error.hint, rule=error.facts.get("rule")) from None


def _gguf_header(files: Files, path: str) -> GgufHeader:
    header = read_gguf(lambda start, stop: files.read(path, start, stop), size=files.sizes[path])
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise InvalidBaseModel(f"{path} is no model but: {str(kind)[:40]}", hint="name the model's own GGUF file")
    return header


def lacks_shards(paths: Iterable[str]) -> bool:
    """Whether the files' own names say that there are more of them.

    >>> lacks_shards(["model-00001-of-00002.safetensors", "other.safetensors"])
    True
    """
    numbers: dict[tuple[str, str, str], set[str]] = {}
    for path in paths:
        stem, _, suffix = path.rpartition(".")
        rest, _, total = stem.rpartition("-of-")
        name, dash, number = rest.rpartition("-")
        if dash and all(text.isascii() and text.isdigit() and len(text) == 5 for text in (number, total)):
            numbers.setdefault((name, total, suffix), set()).add(number)
    return any(len(found) < int(total) for (_, total, _), found in numbers.items())


def _licence(files: Files) -> str | None:
    card = read_whole(files, "README.md", limit=LIMITS.card_bytes)
    value = (validate_card((card or b"").decode("utf-8", "replace")).metadata or {}).get("license")
    return value.lower() if isinstance(value, str) else None


def _json(files: Files, path: str) -> dict[str, Any]:
    raw = read_whole(files, path, limit=LIMITS.index_bytes + 1)
    if raw is None:
        return {}
    try:
        value = parse_json(raw, error=InvalidBaseModel, max_bytes=LIMITS.index_bytes)
    except InvalidBaseModel as error:
        raise InvalidBaseModel(
            f"{path}: {error.message}", hint="write the file again, or copy it again", **error.facts
        ) from None
    return value if isinstance(value, dict) else {}


# --- as text ----------------------------------------------------------------------------------------------------------


def parse_layout(text: str) -> dict[str, BaseTensor]:
    r"""The tensors of `layout_text()` or `weights_text()`. Raises `InvalidBaseModel`.

    >>> parse_layout("lorahub-base-layout-v1\nw\tBF16\t2,3\n")
    {'w': BaseTensor(dtype='BF16', shape=(2, 3), sha256=None)}
    """
    first, *lines = text.split("\n")
    if f"{first}\n" not in (LAYOUT_LINE, WEIGHTS_LINE) or not lines or lines.pop() != "":
        raise InvalidBaseModel(f"a layout begins with the line {LAYOUT_LINE.strip()} and ends with a line feed")
    columns = 3 if f"{first}\n" == LAYOUT_LINE else 4
    tensors = dict(_layout_line(line, columns) for line in lines)
    if not tensors or len(tensors) != len(lines):
        raise InvalidBaseModel("a layout names at least one tensor, and none twice")
    if len(tensors) > LIMITS.base_tensors:
        raise InvalidBaseModel(f"the layout names {len(tensors)} tensors; at most {LIMITS.base_tensors} are taken")
    return tensors


def _layout_line(line: str, columns: int) -> tuple[str, BaseTensor]:
    parts = line.split("\t")
    if len(parts) != columns or not is_dtype(parts[1]) or not parts[0] or not parts[0].isprintable():
        raise InvalidBaseModel(f"not a line of a layout: {line[:100]!a}")
    name, dtype, shape = parts[:3]
    sizes = shape.split(",") if shape else []
    if len(sizes) > LIMITS.dimensions or not all(size.isdecimal() and size.isascii() for size in sizes):
        raise InvalidBaseModel(f"not a shape: {shape[:100]!a}")
    numbers = tuple(int(size[:12]) for size in sizes)
    if any(number > LIMITS.dimension for number in numbers) or len(name.encode()) > LIMITS.name_bytes:
        raise InvalidBaseModel(f"a dimension or a name is too large: {line[:100]!a}")
    digest = parts[3] if columns == 4 else None
    if digest is not None and (len(digest) != 64 or set(digest) - set("0123456789abcdef")):
        raise InvalidBaseModel(f"not a sha256: {digest[:80]!a}")
    return name, BaseTensor(dtype, numbers, digest)


def base_from_text(
    text: str,
    config: Mapping[str, Any],
    *,
    names: Iterable[str] = (),
    revision: str | None = None,
    files: Mapping[str, str] | None = None,
) -> BaseLayout:
    """A base from its stored form. Raises `InvalidBaseModel`."""
    known = list(names)
    base = BaseLayout(
        parse_layout(text),
        config,
        known[0] if known else None,
        revision,
        frozenset(known),
        files or {},
    )
    return replace(base, findings=tuple(_quantised(base)))
