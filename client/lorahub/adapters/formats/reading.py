"""What every format's reader does alike: collect tensors by module and role, and make updates of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from math import isqrt, prod

from lorahub.adapters.adapter import Kind, Part, PartKind, Shape, Update
from lorahub.adapters.findings import Evidence, Finding, finding, shape_text
from lorahub.adapters.safetensors_header import TensorEntry

Tensors = Mapping[str, TensorEntry]
"""The tensors of one module, by role."""

_DIMENSIONS = {
    **dict.fromkeys(("down", "up", "mid", "w1", "w2", "t1", "t2", "rotation", "prompt"), (2, 5)),
    **dict.fromkeys(("w1_a", "w1_b", "w2_a", "w2_b", "reflections", "rows"), (2, 2)),
    **dict.fromkeys(("factor", "growth", "lambda_b", "lambda_d", "values", "indices", "spectrum", "gate"), (1, 5)),
    **dict.fromkeys(("blocks", "down_blocks", "up_blocks", "kernel"), (3, 3)),
    **dict.fromkeys(("down_logits", "up_logits", "down_choices", "up_choices", "down_shares", "up_shares"), (3, 3)),
    "block": (2, 3),
    "bank": (1, 2),
    **dict.fromkeys(("lambda_r", "gamma", "projection", "left", "right"), (2, 2)),
    **dict.fromkeys(("down_places", "up_places"), (2, 2)),
    **dict.fromkeys(("strength", "input_norm", "places", "angles", "lengths"), (1, 1)),
}
"""Role -> how many dimensions a factor has at least and at most."""

WEIGHT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(slots=True)
class Reading:
    """What a reader has found so far."""

    updates: list[Update] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    unknown: list[TensorEntry] = field(default_factory=list)
    missing: list[Evidence] = field(default_factory=list)
    ranks: list[Evidence] = field(default_factory=list)
    dimensions: list[Evidence] = field(default_factory=list)

    def add(self, rule: str, message: str, evidence: Iterable[Evidence] = (), **more: object) -> None:
        self.findings.append(finding(rule, message, evidence, **more))  # type: ignore[arg-type]

    def close(self) -> None:
        """Turns what was collected tensor by tensor into one finding each."""
        if self.unknown:
            names = [Evidence(entry.name, shape_text(entry.shape)) for entry in self.unknown]
            self.add("LH206", f"{_count(names, 'tensor')} of no known method, first {names[0].name}", names)
        if self.missing:
            first = self.missing[0]
            self.add(
                "LH208", f"{_count(self.missing, 'factor')} missing: {first.name} has no {first.expected}", self.missing
            )
        if self.dimensions:
            first = self.dimensions[0]
            told = f"{first.name} is {first.found}, which has {first.expected}"
            self.add("LH209", f"{_count(self.dimensions, 'tensor')} flattened or folded, first {told}", self.dimensions)
        if self.ranks:
            first = self.ranks[0]
            self.add(
                "LH220",
                f"the factors of {_count(self.ranks, 'module')} differ in rank, first {first.name}: {first.found}",
                self.ranks,
            )
        if odd := [one for update in self.updates for one in _odd_vectors(update)]:
            told = f"{odd[0].name} is {odd[0].found} in place of {odd[0].expected}"
            self.add("LH220", f"{_count(odd, 'vector')} of another length than the update, first {told}", odd)


def _odd_vectors(update: Update) -> Iterator[Evidence]:
    """Those beside the factors of `update` that have not one number for each of its outputs, or of its inputs."""
    if len(update.shape) < 2:
        return  # a whole vector, which nothing stands beside
    outputs, inputs = update.shape[0], update.shape[1]
    if update.kind is Kind.EMBEDDING:
        outputs, inputs = inputs, outputs
    for role, length in (("magnitude", outputs), ("up_bias", outputs), ("input_magnitude", inputs)):
        entry = update.tensors.get(role)
        if entry is not None and length is not None and entry.elements != length:
            yield Evidence(entry.name, shape_text(entry.shape), f"[{length}]")


def _count(things: list[Evidence], what: str) -> str:
    return (
        f"1 {what} is" if len(things) == 1 and what == "factor" else f"{len(things)} {what}{'s' * (len(things) != 1)}"
    )


def check_entries(
    entries: Iterable[TensorEntry], reading: Reading, *, allow_flat: Callable[[str], bool]
) -> list[TensorEntry]:
    """Leaves out what can't be a factor: empty or flattened tensors, and dtypes that can't be multiplied."""
    kept, broken, odd = [], [], []
    for entry in entries:
        if not entry.elements or (len(entry.shape) < 2 and not allow_flat(entry.name)):
            broken.append(Evidence(entry.name, shape_text(entry.shape), "two dimensions or more"))
        else:
            kept.append(entry)
            if entry.dtype not in WEIGHT_DTYPES and "indices" not in entry.name.rpartition(".")[2]:
                odd.append(Evidence(entry.name, entry.dtype, "F32, BF16 or F16"))
    if broken:
        reading.add(
            "LH209", f"{_count(broken, 'tensor')} without elements or flattened, first {broken[0].name}", broken
        )
    if odd:
        reading.add("LH304", f"{_count(odd, 'tensor')} of dtype {odd[0].found}", odd)
    return kept


def count_elements(entries: Iterable[TensorEntry]) -> dict[str, int]:
    """Elements by dtype."""
    found: dict[str, int] = {}
    for entry in entries:
        found[entry.dtype] = found.get(entry.dtype, 0) + entry.elements
    return found


def require(
    tensors: Tensors, module: str, roles: Iterable[str], reading: Reading, least: Mapping[str, int] | None = None
) -> bool:
    """Whether all factors are there, with as many dimensions as they need; `least` asks for more of them.

    What isn't there is remembered for LH208, what has another number of dimensions for LH209.
    """
    roles = list(roles)
    absent = [role for role in roles if role not in tensors]
    reading.missing += [Evidence(module, ", ".join(tensors), role) for role in absent]
    odd = [one for role in roles if role in tensors and (one := _odd_dimensions(tensors[role], role, least or {}))]
    reading.dimensions += odd
    return not absent and not odd


def _odd_dimensions(entry: TensorEntry, role: str, least: Mapping[str, int]) -> Evidence | None:
    low, high = _DIMENSIONS.get(role, (0, len(entry.shape)))
    low = least.get(role, low)
    if low <= len(entry.shape) <= high:
        return None
    asked = f"{low} dimensions" if low == high else f"{low} to {high} dimensions"
    return Evidence(entry.name, shape_text(entry.shape), asked)


def agree(ranks: Mapping[str, int], module: str, reading: Reading) -> bool:
    """Whether the inner dimensions are one number; if not, LH220."""
    if len(set(ranks.values())) <= 1:
        return True
    found = ", ".join(f"{role} {rank}" for role, rank in ranks.items())
    reading.ranks.append(Evidence(module, found, "one rank"))
    return False


def _is_flat(role: str, tensors: Tensors, reading: Reading) -> bool:
    """Whether a factor is a matrix, whatever ones stand behind its two dimensions; if not, LH209."""
    entry = tensors[role]
    if prod(entry.shape[2:]) == 1:
        return True
    reading.dimensions.append(Evidence(entry.name, shape_text(entry.shape), "2 dimensions"))
    return False


def _all_agree(sizes: Iterable[Mapping[str, int]], module: str, reading: Reading) -> bool:
    return all(agree(same, module, reading) for same in sizes)


# --- the methods: factors -> the update's shape -----------------------------------------------------------------------


def low_rank(
    module: str,
    tensors: Tensors,
    reading: Reading,
    *,
    method: str = "lora",
    scale: Callable[[int], float],
    transposed: bool = False,
) -> Update | None:
    """`down` (rank, in[, k…]), `up` (out, rank[, 1…]): ΔW = scale · up · down. `mid` is Tucker's core."""
    if not require(tensors, module, ("down", "up"), reading) or not _is_flat("up", tensors, reading):
        return None
    down, up = tensors["down"], tensors["up"]
    rank = down.shape[0]
    diagonal = {"diagonal": elements(tensors["diagonal"])} if "diagonal" in tensors else {}
    if not agree({"down": rank, "up": up.shape[1], **diagonal}, module, reading):
        return None
    shape: Shape = (up.shape[0], *down.shape[1:])
    if "mid" in tensors:
        if not require(tensors, module, ("mid",), reading) or not _is_flat("down", tensors, reading):
            return None
        first, second, *inner = tensors["mid"].shape
        if not _all_agree(({"up": rank, "mid": first}, {"down": rank, "mid": second}), module, reading):
            return None
        shape = (up.shape[0], down.shape[1], *inner)
    kind = Kind.CONV if len(shape) > 2 else Kind.LINEAR
    return Update(module, method, tensors, shape, rank, scale(rank), kind, transposed=transposed)


def embedding(module: str, tensors: Tensors, reading: Reading, *, scale: Callable[[int], float]) -> Update | None:
    """`down` (rank, rows), `up` (width, rank): the rows get scale · (up · down)ᵀ."""
    if not require(tensors, module, ("down", "up"), reading):
        return None
    down, up = tensors["down"], tensors["up"]
    if not agree({"down": down.shape[0], "up": up.shape[1]}, module, reading):
        return None
    rank = down.shape[0]
    return Update(module, "lora", tensors, (down.shape[1], up.shape[0]), rank, scale(rank), Kind.EMBEDDING)


def hadamard(module: str, tensors: Tensors, reading: Reading, *, scale: Callable[[int], float]) -> Update | None:
    """LoHa: ΔW = scale · (w1_a·w1_b) ∘ (w2_a·w2_b); with cores t1, t2 (rank, rank, k…) the `a` are (rank, out)."""
    has_cores = "t1" in tensors or "t2" in tensors
    if not require(tensors, module, ("w1_a", "w1_b", "w2_a", "w2_b", *(("t1", "t2") if has_cores else ())), reading):
        return None
    one, other = ([tensors[role].shape for role in (f"w{half}_a", f"w{half}_b")] for half in "12")
    rank, out = one[0] if has_cores else one[0][::-1]
    second_rank, second_out = other[0] if has_cores else other[0][::-1]
    same = [
        {"w1_a": rank, "w1_b": one[1][0], "w2_a": second_rank, "w2_b": other[1][0]},
        {"w1_a": out, "w2_a": second_out},
        {"w1_b": one[1][1], "w2_b": other[1][1]},
    ]
    shape: Shape = (out, one[1][1])
    if has_cores:
        cores = [tensors[core].shape for core in ("t1", "t2")]
        same += [{"t1": size, "t2": size_of_other} for size, size_of_other in zip_longest(*cores, fillvalue=0)]
        same += [{"w1_a": rank, "t1": size} for size in cores[0][:2]]
        shape = (*shape, *cores[0][2:])
    return Update(module, "loha", tensors, shape, rank, scale(rank)) if _all_agree(same, module, reading) else None


def kronecker(
    module: str, tensors: Tensors, reading: Reading, *, scale: Callable[[int | None], float]
) -> Update | None:
    """LoKr: ΔW = scale · kron(w1, w2), either of them whole or a product of two factors."""
    one, two = _kron_half(module, tensors, "w1", reading), _kron_half(module, tensors, "w2", reading)
    if one is None or two is None:
        return None
    shape = (one[0] * two[0], one[1] * two[1], *two[2:])
    rank = next((tensors[f"{half}_b"].shape[0] for half in ("w1", "w2") if f"{half}_b" in tensors), None)
    return Update(module, "lokr", tensors, shape, rank, scale(rank))


def _kron_half(module: str, tensors: Tensors, half: str, reading: Reading) -> tuple[int, ...] | None:
    if half in tensors:
        is_there = require(tensors, module, (half,), reading) and (half == "w2" or _is_flat(half, tensors, reading))
        return tensors[half].shape if is_there else None
    core = "t2" if half == "w2" else "t1"
    has_core = core in tensors
    if not require(tensors, module, (f"{half}_a", f"{half}_b", *((core,) if has_core else ())), reading):
        return None
    a, b = tensors[f"{half}_a"].shape, tensors[f"{half}_b"].shape
    if not has_core:
        return (a[0], b[1]) if agree({f"{half}_a": a[1], f"{half}_b": b[0]}, module, reading) else None
    first, second, *inner = tensors[core].shape
    same = ({f"{half}_a": a[0], core: first}, {f"{half}_b": b[0], core: second})
    return (a[1], b[1], *inner) if _all_agree(same, module, reading) else None


def bottleneck(module: str, tensors: Tensors, reading: Reading) -> Part | None:
    """`down` (bottleneck, width) and `up` (width, bottleneck), each perhaps with a bias, between the base's modules."""
    if not require(tensors, module, ("down", "up"), reading):
        return None
    down, up = tensors["down"], tensors["up"]
    if not agree({"down": down.shape[0], "up": up.shape[1]}, module, reading):
        return None
    return Part(PartKind.BOTTLENECK, module, tensors, (up.shape[0], down.shape[1]))


def magnitude_role(entry: TensorEntry) -> str:
    """LyCORIS's `dora_scale` (out, 1…) is the norm of each output, its older (1, in, 1…) that of each input."""
    shape = entry.shape
    is_by_input = len(shape) > 1 and shape[0] == 1 and shape[1] != 1
    return "input_magnitude" if is_by_input else "magnitude"


def rotation_size(triangle: int) -> int:
    """b, of a block (b, b) whose upper triangle has b(b−1)/2 elements.

    >>> rotation_size(6)
    4
    """
    return (1 + isqrt(1 + 8 * triangle)) // 2


def elements(entry: TensorEntry) -> int:
    return prod(entry.shape)
