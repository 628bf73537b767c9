"""The first page."""

from fastapi import Response

from lorahub_registry.core.access import looking
from lorahub_registry.core.accounts.viewer import ViewDep
from lorahub_registry.features.catalog.search import Search
from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.pages import listing

router = PageRouter()
SHOWN = 8


@router.page("/")
def home(view: ViewDep) -> Response:
    with looking(view.backend, view.principal) as reader:
        newest, _ = listing.adapters(reader, Search(), limit=SHOWN)
        used, _ = listing.adapters(reader, Search(sort="trendingScore"), limit=SHOWN)
        bases = listing.commonest_bases(reader)
    data = {"newest": newest, "used": [row for row in used if row["downloads"]], "bases": bases}
    return view.render("pages/home.html", data)
