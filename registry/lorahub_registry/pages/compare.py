"""Two adapters, or two versions of one, side by side."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import Any
from urllib.parse import urlencode

from fastapi import Response
from lorahub.errors import GatedRepository, InvalidInput, NotFound, Quarantined
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.references import Reference

from lorahub_registry.core.access import OpenedRepository, Reader, looking
from lorahub_registry.core.accounts.permissions import Principal
from lorahub_registry.core.accounts.viewer import FormDep, ViewDep
from lorahub_registry.core.workers import service as workers
from lorahub_registry.features.overlaps import service as overlaps
from lorahub_registry.features.overlaps.service import Side
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.web.formats import day
from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.pages import drawn
from lorahub_registry.pages.adapter import gathered
from lorahub_registry.pages.adapter.gathered import AdapterPage

router = PageRouter()


@router.page("/compare")
def compare(view: ViewDep, a: str = "", b: str = "") -> Response:
    data: dict[str, Any] = {"a": a, "b": b, "facts": [], "first": None, "second": None, "overlap": None}
    if not a.strip() or not b.strip():
        return view.render("pages/compare.html", data, html={"difference": None, "alike": []})
    with looking(view.backend, view.principal) as reader:
        sides = [open_reference(reader, one) for one in (a, b)]
        statistics = [_statistics(*side) for side in sides]
        data["overlap"] = _known(reader, *(partial(_side, *side) for side in sides))
    first, second = (page for _, page in sides)
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
    alike = drawn.of_overlap(data["overlap"] and data["overlap"]["overlap"])
    return view.render("pages/compare.html", data, html={"difference": difference, "alike": alike})


@router.form("/compare")
def want(form: FormDep) -> Response:
    """Has the overlap computed that the page doesn't have yet."""
    view, a, b = form.view, form.text("a"), form.text("b")
    with looking(view.backend, view.principal) as reader:
        sides = [_side(*open_reference(reader, one)) for one in (a, b)]
    overlaps.want(view.backend, view.principal, *sides)
    return view.redirect(f"/compare?{urlencode({'a': a, 'b': b})}")


def _statistics(opened: OpenedRepository, page: AdapterPage) -> dict[str, Any]:
    if not page.is_readable:
        return {"status": "none", "reason": None, "note": None, "statistics": None}
    return gathered.statistics_of(opened, page.revision)


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


def open_reference(reader: Reader, reference: str) -> tuple[OpenedRepository, AdapterPage]:
    """Of `namespace/name` or `namespace/name@revision`. Raises as `adapter_page`, and `InvalidInput`."""
    name, _, revision = reference.strip().removeprefix("lorahub:").partition("@")
    if "/" not in name:
        raise InvalidInput(f"{reference[:100]!r} names no adapter", hint="write namespace/name or namespace/name@v2")
    opened = reader.open(RepositoryName.parse(name))
    return opened, gathered.adapter_page(opened, revision or None)


def side_by_side(first: AdapterPage, second: AdapterPage) -> list[dict[str, Any]]:
    rows = []
    for key, label in _FACTS:
        values = [_text(one, key) for one in (first, second)]
        if any(values):
            rows.append({"fact": label, "first": values[0], "second": values[1], "same": values[0] == values[1]})
    return rows


def _text(page: AdapterPage, key: str) -> str:
    value = page.shown["card"].get("license") if key == "license" else page.shown[key]
    if isinstance(value, list):
        return ", ".join(map(str, value[:20]))
    return day(value) if key == "updatedAt" else "" if value is None else str(value)


def label_of(page: AdapterPage, other: AdapterPage) -> str:
    """As short as tells it from the other."""
    revision = page.shown["version"] or page.shown["commit"][:10]
    return f"{page.shown['name']}@{revision}" if page.name == other.name else str(page.shown["id"])


# --- how alike their updates are --------------------------------------------------------------------------------------


def _side(opened: OpenedRepository, page: AdapterPage) -> Side:
    return overlaps.side_at(opened, page.model.commit.id)


def _known(reader: Reader, one: Callable[[], Side], other: Callable[[], Side]) -> dict[str, Any] | None:
    """None where one is no adapter, or may not be read."""
    try:
        found = overlaps.overlap_of(reader.session, one(), other())
    except (GatedRepository, NotFound, Quarantined):
        return None
    note = workers.note_in(reader.session, reader.backend) if found.status == "wanted" else None
    return {"status": found.status, "reason": found.reason, "note": note, "overlap": found.overlap}


def overlaps_of(backend: Backend, principal: Principal, sources: Sequence[str]) -> list[dict[str, Any]]:
    """Of each two adapters of a recipe, by their places in it: the figures over all modules."""
    found = []
    with looking(backend, principal) as reader:
        sides = [partial(_side_of, reader, source) for source in sources]
        for first, second in combinations(range(len(sources)), 2):
            if known := _known(reader, sides[first], sides[second]):
                figures = known.pop("overlap")
                found.append({"first": first, "second": second, **known, "whole": figures and figures["whole"]})
    return found


def want_overlaps(backend: Backend, principal: Principal, sources: Sequence[str]) -> None:
    """Raises as `side_at` and `overlaps.want`."""
    with looking(backend, principal) as reader:
        sides = [_side_of(reader, source) for source in sources]
    for one, other in combinations(sides, 2):
        overlaps.want(backend, principal, one, other)


def _side_of(reader: Reader, source: str) -> Side:
    reference = Reference.parse(source)
    return overlaps.side_at(reader.open(reference.repository), reference.revision or "main")
