"""The paper's figures computed anew: each with the exact value, the printed one, and what the two say together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from functools import cache
from math import prod
from typing import Any

from lorahub.estimating.estimate import Estimate, estimate
from lorahub.estimating.methods import MethodSettings, bitfit, bottleneck, full, houlsby, lora
from lorahub.estimating.model import ModelShape, known_model
from lorahub.estimating.paper import (
    ADAPTERS_KEPT,
    DISCREPANCIES,
    FULL_SPEED,
    GPT3,
    HEADLINES,
    LORA_SPEED,
    ROWS,
    Discrepancy,
    PaperRow,
)

_CLOSE = 0.001


@dataclass(frozen=True, slots=True)
class Compared:
    """`verdict`: `exact`, `cut off` (not rounded), `close` (within 0.1 %) or `differs`."""

    where: str
    what: str
    exact: int
    printed: str
    verdict: str
    off: float
    """Printed over exact, less 1."""

    @property
    def matches(self) -> bool:
        return self.verdict != "differs"

    def as_json(self) -> dict[str, Any]:
        names = ("where", "what", "exact", "printed", "verdict", "off")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Explained:
    title: str
    reason: str
    rows: tuple[Compared, ...]

    def as_json(self) -> dict[str, Any]:
        return {"title": self.title, "reason": self.reason, "rows": [row.as_json() for row in self.rows]}


@dataclass(frozen=True, slots=True)
class Headline:
    what: str
    exact: str
    printed: str
    remark: str

    def as_json(self) -> dict[str, str]:
        return {"what": self.what, "exact": self.exact, "printed": self.printed, "remark": self.remark}


@dataclass(frozen=True, slots=True)
class SelfCheck:
    headlines: tuple[Headline, ...]
    rows: tuple[Compared, ...]
    discrepancies: tuple[Explained, ...]

    @property
    def is_right(self) -> bool:
        """Whether every row comes out that should, and none as printed of those that are known not to."""
        known = [row for one in self.discrepancies for row in one.rows]
        return all(row.matches for row in self.rows) and not any(row.verdict in ("exact", "cut off") for row in known)

    def as_json(self) -> dict[str, Any]:
        return {
            "headlines": [one.as_json() for one in self.headlines],
            "rows": [one.as_json() for one in self.rows],
            "discrepancies": [one.as_json() for one in self.discrepancies],
        }


def selfcheck() -> SelfCheck:
    return SelfCheck(
        tuple(_headlines()), tuple(map(compare, ROWS)), tuple(_explained(known) for known in DISCREPANCIES)
    )


# --- rows -------------------------------------------------------------------------------------------------------------


def compare(row: PaperRow) -> Compared:
    exact = _COUNTED[row.method](_model(row.model), row)
    verdict = _verdict(Decimal(exact) / row.unit, Decimal(row.printed))
    return Compared(
        row.where, _told(row), exact, f"{row.printed}M", verdict, float(Decimal(row.printed) * row.unit / exact) - 1
    )


def _verdict(exact: Decimal, printed: Decimal) -> str:
    """By the digits that are printed."""
    if exact.quantize(printed, ROUND_HALF_UP) == printed:
        return "exact"
    if exact.quantize(printed, ROUND_DOWN) == printed:
        return "cut off"
    return "close" if abs(printed / exact - 1) <= _CLOSE else "differs"


def _told(row: PaperRow) -> str:
    settings = [
        *([f"r={row.rank}"] if row.rank else []),
        *([f"on {row.targets}"] if row.targets else []),
        *([f"{row.tokens[0]}+{row.tokens[1]} tokens"] if any(row.tokens) else []),
    ]
    return " ".join([row.model, row.method, *settings])


def _lora(model: ModelShape, row: PaperRow) -> int:
    return lora(model, MethodSettings(rank=row.rank, targets=tuple(row.targets.split(","))))


def _adapter_h(model: ModelShape, row: PaperRow) -> int:
    return houlsby(model, MethodSettings(rank=row.rank))


def _adapter_l(model: ModelShape, row: PaperRow) -> int:
    """One bottleneck a layer, with a norm of its own (Lin et al.)."""
    return model.layers * (bottleneck(model.width, row.rank) + 2 * model.width)


def _prefix_embed(model: ModelShape, row: PaperRow) -> int:
    return model.width * sum(row.tokens)


def _prefix_layer(model: ModelShape, row: PaperRow) -> int:
    return model.layers * model.width * sum(row.tokens)


def _top_2_layers(model: ModelShape, _: PaperRow) -> int:
    return 2 * sum(prod(shape) for name, shape in model.tensors.items() if name.startswith("h.0."))


_COUNTED: Mapping[str, Callable[[ModelShape, PaperRow], int]] = {
    "lora": _lora,
    "adapter-h": _adapter_h,
    "adapter-l": _adapter_l,
    "prefix-embed": _prefix_embed,
    "prefix-layer": _prefix_layer,
    "lora+prefix-embed": lambda model, row: _lora(model, row) + _prefix_embed(model, row),
    "top-2-layers": _top_2_layers,
    "bitfit": lambda model, _: bitfit(model, MethodSettings()),
    "full": lambda model, _: full(model, MethodSettings()),
}


@cache
def _model(name: str) -> ModelShape:
    found = known_model(name)
    assert found is not None, name
    return found


# --- what is known to differ ------------------------------------------------------------------------------------------


def _explained(known: Discrepancy) -> Explained:
    rows = [*map(compare, known.rows), *(_released(*one) for one in known.with_head)]
    return Explained(known.title, known.reason, tuple(rows))


def _released(name: str, rank: int, classes: int, printed: str) -> Compared:
    """LoRA on q,v with the head that classifies: a dense layer, and one of `classes`. In bytes, 4 a parameter."""
    model = _model(name)
    width = model.width
    head = width * width + width + classes * (width + 1)
    size = 4 * (lora(model, MethodSettings(rank=rank, targets=("q", "v"))) + head)
    off = float(printed) * 2**20 / size - 1
    verdict = "close" if abs(off) <= 0.015 else "differs"
    return Compared(
        "README", f"{name} LoRA r={rank} with a head of {classes}, bytes", size, f"{printed} MB", verdict, off
    )


# --- headlines --------------------------------------------------------------------------------------------------------


def _headlines() -> list[Headline]:
    made = estimate(_model(GPT3), "lora", MethodSettings(rank=4, targets=("q", "v")))
    weights = 2 * made.parameters
    before, after = made.memory["paper"]
    adapter = made.checkpoint(16)
    exact = {
        "size": f"{made.parameters / 1e6:,.1f}M",
        "fewer": f"{made.parameters / made.trainable:,.0f}×",
        "checkpoint": f"{adapter / 1e6:.2f} MB",
        "full checkpoint": f"{weights / 1e9:.1f} GB",
        "kept": f"{(weights + ADAPTERS_KEPT * adapter) / 1e9:.1f} GB, {ADAPTERS_KEPT * weights / 1e12:.2f} TB",
        "memory": f"{before / after:.2f}×",
        "memory in bytes": _bytes_of(made),
        "speed": f"{1 - FULL_SPEED / LORA_SPEED:.1%}",
    }
    return [Headline(_ASKED[key], exact[key], *HEADLINES[key]) for key in HEADLINES]


def _bytes_of(made: Estimate) -> str:
    (low, own), (high, _) = made.memory["paper"], made.memory["16bit"]
    return f"{low / 1e12:.2f} to {high / 1e12:.2f} TB → {own / 1e9:.0f} GB"


_ASKED = {
    "size": "GPT-3, parameters",
    "fewer": "fewer trained, r=4 on q,v",
    "checkpoint": "the adapter's checkpoint",
    "full checkpoint": "the model's checkpoint",
    "kept": "a base and 100 adapters",
    "memory": "less memory",
    "memory in bytes": "memory, from → to",
    "speed": "faster",
}
