"""Two adapters, or two versions of one, side by side."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any
from urllib.parse import urlencode

from fastapi import Response
from lorahub.errors import GatedRepository, InvalidInput, NotFound, Quarantined
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.references import Reference

from lorahub_registry.core.accounts.permissions import Principal
from lorahub_registry.core.accounts.viewer import FormDep, View, ViewDep
from lorahub_registry.core.workers import service as workers
from lorahub_registry.features.overlaps import service as overlaps
from lorahub_registry.features.overlaps.service import Side
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.web.formats import day
from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.pages import drawn
from lorahub_registry.pages.adapter import gathered
from lorahub_registry.pages.adapter.gathered import Opened

router = PageRouter()


@router.page("/compare")
def compare(view: ViewDep, a: str = "", b: str = "") -> Response:
    data: dict[str, Any] = {"a": a, "b": b, "facts": [], "first": None, "second": None, "overlap": None}
    if not a.strip() or not b.strip():
        return view.render("pages/compare.html", data, html={"difference": None, "alike": []})
    first = open_reference(view.backend, view.principal, a)
    second = open_reference(view.backend, view.principal, b)
    statistics = [_statistics(view, one) for one in (first, second)]
    names = (label_of(first, second), label_of(second, first))
    data["facts"] = side_by_side(first, second)
    data["first"], data["second"] = (
        {
            "id": one.shown["id"],
            "revision": one.revision,
            "label": name,
            "statistics": found["status"],
            "note": found["note"],
        }
        for one, name, found in zip((first, second), names, statistics, strict=True)
    )
    difference = drawn.of_difference(statistics[0], statistics[1], names)
    data["norms"] = [list(row) for row in difference.rows] if difference else []
    data["overlap"] = overlap_of(view.backend, view.principal, first, second)
    alike = drawn.of_overlap(data["overlap"] and data["overlap"]["overlap"])
    return view.render("pages/compare.html", data, html={"difference": difference, "alike": alike})


@router.form("/compare")
def want(form: FormDep) -> Response:
    """Has the overlap computed that the page doesn't have yet."""
    view, a, b = form.view, form.text("a"), form.text("b")
    sides = (open_reference(view.backend, view.principal, one) for one in (a, b))
    want_overlap(view.backend, view.principal, *sides)
    return view.redirect(f"/compare?{urlencode({'a': a, 'b': b})}")


def _statistics(view: View, opened: Opened) -> dict[str, Any]:
    if not opened.is_readable:
        return {"status": "none", "reason": None, "note": None, "statistics": None}
    return gathered.statistics_of(view.backend, view.principal, opened)


# --- what it gathers -------------------------------------------------------------------------------------------------


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
    return gathered.open_adapter(backend, principal, RepositoryName.parse(name), revision or None)


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
