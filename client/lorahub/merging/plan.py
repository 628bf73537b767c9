"""A merged model as if it were stored: its files are known from headers alone, and any range of their bytes is computed
when it is read.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

from lorahub.adapters.base_model import BaseLayout, read_base, weight_files
from lorahub.adapters.files import Files, read_whole
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.manifest import MANIFEST
from lorahub.adapters.reader import read_adapter
from lorahub.errors import InvalidBaseModel, MergeTooLarge, NotMergeable
from lorahub.merging.factors import FactorReader
from lorahub.merging.kernel import BlockCache, Effort, Kernel, Kernels
from lorahub.merging.layout import Extent, WeightFile, index_of, weight_file
from lorahub.merging.recipe import KERNEL, Ingredient, Recipe
from lorahub.merging.rounding import FLOATS
from lorahub.merging.targets import MergeMember, MergeTarget, model_of

if TYPE_CHECKING:
    from lorahub.merging.rounding import Matrix

LINEAGE = "lorahub-merge.json"
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack", ".tflite", ".safetensors")
_OTHER_FOLDERS = ("original/", "onnx/", "openvino/", "flax/")
_TOKENIZER = (
    "tokenizer.json tokenizer.model tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json "
    "merges.txt vocab.txt spiece.model chat_template.jinja"
).split()
_COPY_STEP = 4 << 20
_READ_STEP = 1 << 20
_RUN = 16 << 20
"""Bytes that a device computes at once: its calls cost more than a block's arithmetic."""

MOST_MEMORY = 64 << 30
"""Bytes that one tensor may take while it is computed."""
MOST_FACTORS = 4 << 30
"""Bytes of float64 of one update's factors."""
MOST_WORK = 1 << 14
"""Multiplications for each element of the result; rank 1,000 needs 1,000."""


class Device(Protocol):
    """Computes many blocks at once, with the kernel's bytes. `merging.certified` has the one there is."""

    @property
    def account(self) -> str:
        """How much it did, for people."""
        ...

    def takes(self, kernel: Kernel) -> bool: ...

    def blocks(self, kernel: Kernel, raw: bytes, dtype: str, start: int, stop: int) -> Iterator[memoryview]:
        """Those of the rows [start, stop), whose base is `raw`, of `dtype`. Each is good until the next."""
        ...


@dataclass(frozen=True, slots=True)
class Ingredients:
    """Where the parts of a merge are read from. `identities` are their digests, as far as they are known."""

    base: Files
    adapters: Sequence[Files]
    identities: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cost:
    """From headers alone. `work` are multiplications, `memory` the bytes that the most expensive block takes while it
    is computed: a whole tensor, where a method needs it.
    """

    bytes: int
    computed: int
    work: int
    memory: int

    def as_json(self) -> dict[str, int]:
        return {"bytes": self.bytes, "computed": self.computed, "work": self.work, "memory": self.memory}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file. It is read, or it is the bytes [start, stop) of block `number` of `extent`."""

    read: Callable[[], bytes] | None = None
    extent: Extent | None = None
    number: int = 0
    start: int = 0
    stop: int = 0


class MergePlan:
    """What a recipe comes to. `files` maps paths to sizes; `read(path, start, stop)` computes what it overlaps.

    Made from headers, in milliseconds; raises `InvalidBaseModel`, `AdapterDoesNotFit`, `NotMergeable`, and
    `MergeTooLarge`, all before anything is allocated. Safe to read from several threads.
    """

    def __init__(
        self, recipe: Recipe, of: Ingredients, *, cache: BlockCache | None = None, device: Device | None = None
    ) -> None:
        """`cache` keeps steps with their factors; by itself a plan keeps those of the last few tensors."""
        self.recipe = recipe
        self.base_files = of.base
        self.base = _base(of.base, recipe.base)
        self.members = [_member(*pair) for pair in zip(of.adapters, recipe.adapters, strict=True)]
        self.model = model_of(self.base, self.members, recipe.dtype)
        if "vocab_size" in self.model.configuration and recipe.method != "sum":
            raise NotMergeable(
                f"{recipe.method} compares with the base, whose vocabulary has another size", hint="use method: sum"
            )
        self.kernels = Kernels(self.members, recipe, cache)
        self.identities = of.identities
        self.device = device
        self._adapters = of.adapters
        self.weights = self._weight_files()
        self.cost = self._cost()

    # --- what there is ------------------------------------------------------------------------------------------------

    @cached_property
    def digest(self) -> str:
        """sha256 of everything that the bytes depend on."""
        return self.recipe.digest(self.identities)

    @cached_property
    def files(self) -> dict[str, int]:
        """Path -> bytes."""
        sizes = {path: len(content) for path, content in self._small.items()}
        sizes |= {path: file.size for path, file in self.weights.items()}
        sizes |= {path: files.sizes[source] for path, (files, source) in self._copied.items()}
        return dict(sorted(sizes.items()))

    def etag(self, path: str) -> str:
        """A file's tag: stable, and no sha256 of its content, which nobody knows before it was computed once."""
        return f"merged-{hashlib.sha256(f'{self.digest}/{path}'.encode()).hexdigest()[:40]}"

    @property
    def notes(self) -> tuple[str, ...]:
        return self.model.notes

    def small(self, path: str) -> bytes | None:
        """A file that the plan has in memory: configuration, index, card."""
        return self._small.get(path)

    def copied(self, path: str) -> tuple[Files, str] | None:
        """Where a file that is no weights is read from."""
        return self._copied.get(path)

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, path: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of a file, fewer where it ends before."""
        return b"".join(self.stream(path, start, stop))

    def stream(self, path: str, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) of a file in pieces, each computed when it is asked for."""
        stop = min(stop, self.files[path])
        if path in self.weights:
            yield from self._weights(self.weights[path], start, stop)
        elif path in self._small:
            yield self._small[path][start:stop]
        else:
            files, source = self._copied[path]
            for begin in range(start, stop, _COPY_STEP):
                yield files.read(source, begin, min(stop, begin + _COPY_STEP))

    def _weights(self, file: WeightFile, start: int, stop: int) -> Iterator[bytes]:
        if start < len(file.header):
            yield file.header[start : min(stop, len(file.header))]
        for extent in file.overlapping(start, stop):
            begin, end = max(start, extent.start) - extent.start, min(stop, extent.stop) - extent.start
            yield from map(bytes, self.extent(extent, begin, end))

    def extent(self, extent: Extent, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """The bytes [start, stop) of a tensor, block by block; each is good until the thread asks for the next."""
        if extent.is_copy:
            assert extent.source is not None  # what is copied is somewhere
            for begin in range(start, stop, _COPY_STEP):
                end = min(stop, begin + _COPY_STEP)
                yield self.base_files.read(extent.source.path, extent.source.start + begin, extent.source.start + end)
            return
        size = self.block_bytes(extent)
        numbers = range(start // size, -(-stop // size))
        for number, block in zip(numbers, self._blocks(extent, numbers), strict=True):
            first = number * size
            yield block[max(0, start - first) : stop - first] if start > first or stop < first + len(block) else block

    def block_bytes(self, extent: Extent) -> int:
        """The bytes of each block but the last."""
        return max(1, self.kernels.block_rows(extent.target) * extent.target.matrix[1] * FLOATS[extent.target.dtype])

    def _blocks(self, extent: Extent, numbers: range) -> Iterator[bytes | memoryview]:
        if self.device is None or not self.device.takes(self.kernels.of(extent.target)):
            for number in numbers:
                yield self.compute(extent, number)
        else:
            yield from self._on_device(self.device, extent, numbers)

    def _on_device(self, device: Device, extent: Extent, numbers: range) -> Iterator[memoryview]:
        kernel = self.kernels.of(extent.target)
        most = max(1, _RUN // self.block_bytes(extent))
        for first in numbers[::most]:
            last = min(first + most, numbers.stop)
            start, stop = first * kernel.block_rows, min(last * kernel.block_rows, extent.target.matrix[0])
            raw, dtype = self._rows_of_base(extent, start, stop - start)
            yield from device.blocks(kernel, raw, dtype, start, stop)

    def compute(self, extent: Extent, number: int) -> memoryview:
        """One block of a tensor, this thread's until it computes another."""
        return self.finish(extent, number, *self.block_of_base(extent, number))

    def block_of_base(self, extent: Extent, number: int) -> tuple[bytes, str]:
        """What a block is computed from, and its dtype."""
        rows = self.kernels.block_rows(extent.target)
        return self._rows_of_base(extent, number * rows, rows)

    def finish(self, extent: Extent, number: int, raw: bytes, dtype: str) -> memoryview:
        """A block of what `block_of_base` gave; this thread's until it computes another."""
        kernel = self.kernels.of(extent.target)
        return kernel.block(raw, dtype, number * kernel.block_rows)

    def pieces(self, path: str, start: int, stop: int) -> Iterator[Piece]:
        """The bytes [start, stop) of a file as what has to be done for them, for whoever does it elsewhere."""
        stop = min(stop, self.files[path])
        file = self.weights.get(path)
        if file is None:
            yield from self._read_in_steps(start, stop, lambda first, last: self.read(path, first, last))
            return
        if start < len(file.header):
            yield Piece(read=lambda: file.header[start : min(stop, len(file.header))])
        for extent in file.overlapping(start, stop):
            begin, end = max(start, extent.start), min(stop, extent.stop)
            if extent.is_copy:
                yield from self._read_in_steps(begin, end, lambda first, last: self.read(path, first, last))
            else:
                yield from self._blocks_between(extent, begin - extent.start, end - extent.start)

    @staticmethod
    def _read_in_steps(start: int, stop: int, read: Callable[[int, int], bytes]) -> Iterator[Piece]:
        for first in range(start, stop, _READ_STEP):
            yield Piece(read=partial(read, first, min(stop, first + _READ_STEP)))

    def _blocks_between(self, extent: Extent, start: int, stop: int) -> Iterator[Piece]:
        size = self.block_bytes(extent)
        for number in range(start // size, -(-stop // size)):
            first = number * size
            yield Piece(extent=extent, number=number, start=max(0, start - first), stop=min(size, stop - first))

    def rounding_loss(self, *, most: int = 16) -> float | None:
        """‖rounding‖ / ‖ΔW‖ over one block of each of at most `most` changed tensors; None where nothing changes."""
        changed = [extent for file in self.weights.values() for extent in file.extents if extent.target.changes]
        lost = moved = 0.0
        for extent in changed[:: max(1, len(changed) // most)]:
            kernel = self.kernels.of(extent.target)
            rows = extent.target.matrix[0]
            start = (rows // kernel.block_rows // 2) * kernel.block_rows
            raw, dtype = self._rows_of_base(extent, start, kernel.block_rows)
            error, delta = kernel.loss(raw, dtype, start)
            lost, moved = lost + error, moved + delta
        return (lost / moved) ** 0.5 if moved else None

    def deltas(self, extent: Extent) -> Iterator[tuple[int, "Matrix"]]:
        """W′ − W in float64, before any rounding: (the first row, some rows). The base is read where it matters."""
        kernel = self.kernels.of(extent.target)
        rows, columns = extent.target.matrix
        most = rows if self.is_whole(extent) else max(1, _RUN // (8 * columns))
        for start in range(0, rows, most):
            count = min(most, rows - start)
            raw, dtype = (b"", "F32") if kernel.is_additive else self._rows_of_base(extent, start, count)
            yield start, kernel.delta(raw, dtype, start, count)

    def _rows_of_base(self, extent: Extent, start: int, count: int) -> tuple[bytes, str]:
        """The base's rows [start, start + count) and their dtype; none where the result doesn't begin with them."""
        source = extent.source
        if source is None or source.shape != extent.target.shape:
            return b"", extent.target.dtype
        rows, columns = extent.target.matrix
        size, stop = columns * FLOATS[source.dtype], min(rows, start + count)
        raw = self.base_files.read(source.path, source.start + start * size, source.start + stop * size)
        if len(raw) != (stop - start) * size:
            raise InvalidBaseModel(f"{source.path} ends before its tensors do", hint="fetch the base again")
        return raw, source.dtype

    # --- files --------------------------------------------------------------------------------------------------------

    def _weight_files(self) -> dict[str, WeightFile]:
        paths = weight_files(self.base_files)
        targets: dict[str, list[MergeTarget]] = dict(self.model.targets)
        new = targets.pop("", [])
        made: dict[str, WeightFile] = {}
        for prefix, path in paths:
            here = {**targets, "": new} if (prefix, path) == paths[-1] and new else targets
            made[path] = weight_file(self.base_files, path, prefix, here)
        return made

    @cached_property
    def _copied(self) -> dict[str, tuple[Files, str]]:
        copied = {path: (self.base_files, path) for path in self.base_files.sizes if self._is_kept(path)}
        if "vocab_size" in self.model.configuration:
            for files in self._adapters:
                copied |= {path: (files, path) for path in _TOKENIZER if path in files.sizes}
        return {path: place for path, place in copied.items() if path not in self._small}

    def _is_kept(self, path: str) -> bool:
        if path in self.weights or path.startswith((".", *_OTHER_FOLDERS)) or path == MANIFEST:
            return False
        return not path.endswith((*_OTHER_WEIGHTS, ".index.json"))

    @cached_property
    def _small(self) -> dict[str, bytes]:
        files = {LINEAGE: self._lineage(), "README.md": self._card()}
        for path in ("config.json",):
            if path in self.base_files.sizes and self.model.configuration:
                files[path] = self._configuration(path)
        return files | self._indexes()

    def _indexes(self) -> dict[str, bytes]:
        found = {}
        for path in self.base_files.sizes:
            if not path.endswith(".safetensors.index.json"):
                continue
            folder = path.rpartition("/")[0]
            files = [file for name, file in self.weights.items() if name.rpartition("/")[0] == folder]
            is_same = all(self._has_base_layout(file) for file in files)
            raw = read_whole(self.base_files, path, limit=LIMITS.index_bytes) if is_same else None
            found[path] = raw if raw is not None else index_of(files)
        return found

    def _has_base_layout(self, file: WeightFile) -> bool:
        return self.base_files.read(file.path, 0, len(file.header)) == file.header

    def _configuration(self, path: str) -> bytes:
        """The base's, with what the merge changes; values of a nested text_config change there."""
        raw = read_whole(self.base_files, path, limit=LIMITS.index_bytes)
        value: dict[str, Any] = json.loads(raw or b"{}")
        inner: Any = value.get("text_config")
        for key, changed in self.model.configuration.items():
            is_inner = isinstance(inner, dict) and (key in inner or key not in value)
            if is_inner:
                inner[key] = changed
            if not is_inner or key in value or key == "tie_word_embeddings":
                value[key] = changed
            if key == "dtype" and "torch_dtype" in value:
                value["torch_dtype"] = changed
        text = inner if isinstance(inner, dict) else value
        if self.model.layers and isinstance(text.get("layer_types"), list):
            text["layer_types"] = [text["layer_types"][old] for old in self.model.layers]
        return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()

    def _lineage(self) -> bytes:
        value = {
            "kind": "lorahub-merge-v1",
            "digest": self.digest,
            "kernel": KERNEL,
            "recipe": self.recipe.as_json(),
            "of": self.identities,
            "notes": list(self.notes),
        }
        return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()

    def _card(self) -> bytes:
        names = [self.recipe.base, *(one.source for one in self.recipe.adapters)]
        lines = ["---", "library_name: transformers", "base_model:"]
        lines += [f"- {json.dumps(name, ensure_ascii=False)}" for name in names]
        if self.base.licence:
            lines.append(f"license: {json.dumps(self.base.licence)}")
        lines += ["base_model_relation: merge", "tags: [merge, lorahub]", "---", "", "# Merged model", ""]
        lines.append("W' = W + s·BA, computed in float64 and rounded once. Made of:")
        lines += ["", "```yaml", self.recipe.as_yaml().rstrip(), "```", ""]
        lines += [f"- {note}" for note in self.notes]
        lines += ["", f"Recipe digest: `{self.digest}`", ""]
        return "\n".join(lines).encode()

    # --- cost ---------------------------------------------------------------------------------------------------------

    def _cost(self) -> Cost:
        computed = work = memory = total = 0
        for file in self.weights.values():
            total += file.size
            for extent in file.extents:
                if extent.is_copy:
                    continue
                computed += extent.stop - extent.start
                work += self._work(extent.target) * prod(extent.target.shape)
                memory = max(memory, self.effort(extent).memory)
        if memory > MOST_MEMORY:
            raise MergeTooLarge(
                f"one tensor takes {memory >> 30} GiB while it is computed; at most {MOST_MEMORY >> 30} GiB are given",
                hint="merge with method: sum, which goes row by row",
            )
        return Cost(total, computed, work, memory)

    def effort(self, extent: Extent) -> Effort:
        """What one block of a tensor takes, its factors included."""
        return self.kernels.effort(extent.target, extent.target.dtype if extent.source is None else extent.source.dtype)

    def is_whole(self, extent: Extent) -> bool:
        """Whether a byte of the tensor needs all of it."""
        return not extent.is_copy and self.kernels.is_whole(extent.target)

    def _work(self, target: MergeTarget) -> int:
        """Multiplications for an element. Raises `MergeTooLarge`."""
        factor = 0
        for change in target.changes:
            piece = change.piece
            stored = sum(prod(entry.shape) for entry in piece.tensors.values())
            rank = getattr(piece, "rank", None) or 1
            factor += rank
            if stored * 8 > MOST_FACTORS or rank > MOST_WORK:
                raise MergeTooLarge(
                    f"{piece.module}: rank {rank} and {stored} numbers for one weight of {list(target.shape)}",
                    hint=f"at most rank {MOST_WORK}; a rank above the smaller side of a weight gains nothing",
                )
        if factor > MOST_WORK:
            raise MergeTooLarge(
                f"{target.name}: the ranks of its updates add up to {factor}", hint="merge fewer at once"
            )
        return factor


def _member(files: Files, ingredient: Ingredient) -> MergeMember:
    adapter = read_adapter(files)
    return MergeMember(adapter, FactorReader(files, adapter), ingredient)


def _base(files: Files, name: str) -> BaseLayout:
    return replace(read_base(files, digest=files.sha256), name=name)
