"""Search, as a page and as an Atom feed."""

from fastapi import Response

from lorahub_registry.features.accounts.viewer import ViewDep
from lorahub_registry.features.browsing import searching, service
from lorahub_registry.features.browsing.searching import SORTS
from lorahub_registry.infrastructure.database import now
from lorahub_registry.infrastructure.web.pages import PageRouter, render_feed
from lorahub_registry.infrastructure.web.times import wire_time

router = PageRouter()


@router.page("/search")
def search(view: ViewDep, cursor: str | None = None) -> Response:
    asked = searching.parse(view.request.query_params.multi_items())
    data = searching.look(view.backend, view.principal, asked, cursor)
    html = {"sorts": SORTS, "chosen_pairs": asked.chosen, "feed": asked.address(path="/search.atom"), "cursor": cursor}
    return view.render("browsing/search.html", data, html=html)


@router.page("/search.atom", twin=False)
def feed(view: ViewDep) -> Response:
    """The adapters that changed last, of those the search finds."""
    asked = searching.parse(view.request.query_params.multi_items())
    rows, _ = service.adapters(view.backend, view.principal, asked.as_search())
    data = {
        "rows": rows,
        "updated": rows[0]["updatedAt"] if rows else wire_time(now()),
        "address": view.chrome.url + asked.address(),
        "itself": view.chrome.url + asked.address(path="/search.atom"),
    }
    return render_feed(view.request, "browsing/search.atom", data, chrome=view.chrome)
