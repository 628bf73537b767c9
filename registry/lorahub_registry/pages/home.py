"""The first page."""

from fastapi import Response

from lorahub_registry.core.accounts.viewer import ViewDep
from lorahub_registry.features.catalog.search import Search
from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.pages import listing

router = PageRouter()
SHOWN = 8


@router.page("/")
def home(view: ViewDep) -> Response:
    newest, _ = listing.adapters(view.backend, view.principal, Search(), limit=SHOWN)
    used, _ = listing.adapters(view.backend, view.principal, Search(sort="trendingScore"), limit=SHOWN)
    data = {
        "newest": newest,
        "used": [row for row in used if row["downloads"]],
        "bases": listing.commonest_bases(view.backend, view.principal),
    }
    return view.render("pages/home.html", data)
