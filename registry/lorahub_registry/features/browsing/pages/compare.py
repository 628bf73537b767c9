"""Comparing two adapters, or two versions of one."""

from typing import Any
from urllib.parse import urlencode

from fastapi import Response

from lorahub_registry.features.accounts.viewer import FormDep, View, ViewDep
from lorahub_registry.features.browsing import adapters, comparing, drawn
from lorahub_registry.features.browsing.adapters import Opened
from lorahub_registry.infrastructure.web.pages import PageRouter

router = PageRouter()


@router.page("/compare")
def compare(view: ViewDep, a: str = "", b: str = "") -> Response:
    data: dict[str, Any] = {"a": a, "b": b, "facts": [], "first": None, "second": None, "overlap": None}
    if not a.strip() or not b.strip():
        return view.render("browsing/compare.html", data, html={"difference": None, "alike": []})
    first = comparing.open_reference(view.backend, view.principal, a)
    second = comparing.open_reference(view.backend, view.principal, b)
    statistics = [_statistics(view, one) for one in (first, second)]
    names = (comparing.label_of(first, second), comparing.label_of(second, first))
    data["facts"] = comparing.side_by_side(first, second)
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
    data["overlap"] = comparing.overlap_of(view.backend, view.principal, first, second)
    alike = drawn.of_overlap(data["overlap"] and data["overlap"]["overlap"])
    return view.render("browsing/compare.html", data, html={"difference": difference, "alike": alike})


@router.form("/compare")
def want(form: FormDep) -> Response:
    """Has the overlap computed that the page doesn't have yet."""
    view, a, b = form.view, form.text("a"), form.text("b")
    sides = (comparing.open_reference(view.backend, view.principal, one) for one in (a, b))
    comparing.want_overlap(view.backend, view.principal, *sides)
    return view.redirect(f"/compare?{urlencode({'a': a, 'b': b})}")


def _statistics(view: View, opened: Opened) -> dict[str, Any]:
    if not opened.is_readable:
        return {"status": "none", "reason": None, "note": None, "statistics": None}
    return adapters.statistics_of(view.backend, view.principal, opened)
