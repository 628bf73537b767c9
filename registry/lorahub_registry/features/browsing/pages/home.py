"""The first page."""

from fastapi import Response

from lorahub_registry.features.accounts.viewer import ViewDep
from lorahub_registry.features.browsing import service
from lorahub_registry.features.catalog.search import Search
from lorahub_registry.infrastructure.web.pages import PageRouter

router = PageRouter()
SHOWN = 8


@router.page("/")
def home(view: ViewDep) -> Response:
    newest, _ = service.adapters(view.backend, view.principal, Search(), limit=SHOWN)
    used, _ = service.adapters(view.backend, view.principal, Search(sort="trendingScore"), limit=SHOWN)
    data = {
        "newest": newest,
        "used": [row for row in used if row["downloads"]],
        "bases": service.commonest_bases(view.backend, view.principal),
    }
    return view.render("browsing/home.html", data)
