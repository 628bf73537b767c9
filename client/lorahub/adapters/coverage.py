"""How much of an adapter's file is understood: every tensor is used, or named in a finding."""

from collections.abc import Iterable
from dataclasses import dataclass

from lorahub.adapters.adapter import Adapter, Part, Update
from lorahub.adapters.findings import Evidence, Finding, finding


@dataclass(frozen=True, slots=True)
class Coverage:
    """There are `of` tensors; `used` are an update's or a part's, `named` are others that findings tell of."""

    used: int
    named: int
    of: int

    def as_json(self) -> dict[str, int]:
        return {"used": self.used, "named": self.named, "of": self.of}


NOTHING = Coverage(0, 0, 0)


def coverage_of(adapter: Adapter, findings: Iterable[Finding]) -> Coverage:
    used, named = _understood(adapter, findings)
    return Coverage(len(used), len(named), len(adapter.tensors))


def untold(adapter: Adapter) -> list[Finding]:
    """LH306 for tensors that the reader neither used nor told of: so none is left out without a word."""
    used, named = _understood(adapter, adapter.findings)
    lost = [name for name in adapter.tensors if name not in used and name not in named]
    if not lost or not adapter.has_format:
        return []
    told = f"{len(lost)} of {len(adapter.tensors)} tensors are not understood, first {lost[0]}"
    return [finding("LH306", told, (Evidence(name) for name in lost))]


def _understood(adapter: Adapter, findings: Iterable[Finding]) -> tuple[set[str], set[str]]:
    """(tensors that are used, those that are not and that findings name: themselves, or their modules)."""
    pieces: list[Update | Part] = [*adapter.updates, *adapter.parts]
    used = {entry.name for piece in pieces for entry in piece.tensors.values()} & set(adapter.tensors)
    rest = [name for name in adapter.tensors if name not in used]
    told = {piece.name for found in findings for piece in found.evidence} if rest else set()
    return used, {name for name in rest if any(place in told for place in _places(name))}


def _places(name: str) -> Iterable[str]:
    """The tensor, and what may be a module that it belongs to: its beginnings, and runs of several of its names."""
    parts = name.split(".")
    for start in range(len(parts)):
        for stop in range(len(parts), start + bool(start), -1):
            yield ".".join(parts[start:stop])
