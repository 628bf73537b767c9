"""Two adapters, or two versions of one, side by side. JSON-ready."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from lorahub.errors import GatedRepository, InvalidInput, NotFound, Quarantined
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.references import Reference

from lorahub_registry.features.accounts.permissions import Principal
from lorahub_registry.features.browsing import adapters
from lorahub_registry.features.browsing.adapters import Opened
from lorahub_registry.features.overlaps import service as overlaps
from lorahub_registry.features.overlaps.service import Side
from lorahub_registry.features.workers import service as workers
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.web.formats import day

_FACTS = (
    ("version", "Version"),
    ("base", "Base model"),
    ("baseRevision", "Base revision"),
    ("method", "Method"),
    ("ranks", "Ranks"),
    ("scales", "Scales"),
    ("targets", "Targets"),
    ("modules", "Modules"),
    ("parameters", "Parameters"),
    ("dtypes", "Types"),
    ("format", "Format"),
    ("verdict", "Fit"),
    ("task", "Task"),
    ("license", "Licence"),
    ("downloads", "Downloads"),
    ("updatedAt", "Changed"),
)


def open_reference(backend: Backend, principal: Principal, reference: str) -> Opened:
    """Of `namespace/name` or `namespace/name@revision`. Raises as `open_adapter`, and `InvalidInput`."""
    name, _, revision = reference.strip().removeprefix("lorahub:").partition("@")
    if "/" not in name:
        raise InvalidInput(f"{reference[:100]!r} names no adapter", hint="write namespace/name or namespace/name@v2")
    return adapters.open_adapter(backend, principal, RepositoryName.parse(name), revision or None)


def side_by_side(first: Opened, second: Opened) -> list[dict[str, Any]]:
    rows = []
    for key, label in _FACTS:
        values = [_text(one, key) for one in (first, second)]
        if any(values):
            rows.append({"fact": label, "first": values[0], "second": values[1], "same": values[0] == values[1]})
    return rows


def _text(opened: Opened, key: str) -> str:
    value = opened.shown["card"].get("license") if key == "license" else opened.shown[key]
    if isinstance(value, list):
        return ", ".join(map(str, value[:20]))
    return day(value) if key == "updatedAt" else "" if value is None else str(value)


def label_of(opened: Opened, other: Opened) -> str:
    """As short as tells it from the other."""
    revision = opened.shown["version"] or opened.shown["commit"][:10]
    return f"{opened.shown['name']}@{revision}" if opened.name == other.name else str(opened.shown["id"])


# --- how alike their updates are --------------------------------------------------------------------------------------


def overlap_of(backend: Backend, principal: Principal, first: Opened, second: Opened) -> dict[str, Any] | None:
    """None where one is no adapter, or may not be read."""
    return _known(backend, principal, _side(first), _side(second))


def want_overlap(backend: Backend, principal: Principal, first: Opened, second: Opened) -> None:
    """Raises as `overlaps.want`."""
    overlaps.want(backend, principal, _side(first), _side(second))


def _side(opened: Opened) -> Side:
    return Side(opened.name, opened.model.commit.id)


def _known(backend: Backend, principal: Principal, one: Side, other: Side) -> dict[str, Any] | None:
    try:
        found = overlaps.overlap_of(backend, principal, one, other)
    except (GatedRepository, NotFound, Quarantined):
        return None
    note = workers.note(backend) if found.status == "wanted" else None
    return {"status": found.status, "reason": found.reason, "note": note, "overlap": found.overlap}


def overlaps_of(backend: Backend, principal: Principal, sources: Sequence[str]) -> list[dict[str, Any]]:
    """Of each two adapters of a recipe, by their places in it: the figures over all modules."""
    found = []
    for first, second, sides in _pairs(sources):
        if known := _known(backend, principal, *sides):
            figures = known.pop("overlap")
            found.append({"first": first, "second": second, **known, "whole": figures and figures["whole"]})
    return found


def want_overlaps(backend: Backend, principal: Principal, sources: Sequence[str]) -> None:
    """Raises as `overlaps.want`."""
    for _, _, sides in _pairs(sources):
        overlaps.want(backend, principal, *sides)


def _pairs(sources: Sequence[str]) -> Iterator[tuple[int, int, tuple[Side, Side]]]:
    references = [Reference.parse(source) for source in sources]
    sides = [Side(reference.repository, reference.revision or "main") for reference in references]
    for first, second in combinations(range(len(sides)), 2):
        yield first, second, (sides[first], sides[second])
