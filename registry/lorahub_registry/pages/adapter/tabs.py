"""An adapter's pages: what it is, its versions, files, commits, weights, training, lineage, and what takes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Path, Response
from lorahub.adapters.model_card import body_of
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.access import OpenedRepository, reading
from lorahub_registry.core.accounts.viewer import View, ViewDep
from lorahub_registry.features.downloads import service as downloads
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.infrastructure.web.parameters import PathInRevision, Repo, Revision
from lorahub_registry.infrastructure.web.raw_path import decode
from lorahub_registry.pages import drawn
from lorahub_registry.pages.adapter import cards, gathered, lineage, showing, training, using
from lorahub_registry.pages.adapter.gathered import AdapterPage

router = PageRouter()
ADAPTER = "/{namespace:namespace}/{name}"


@contextmanager
def opening(
    view: View, repo: RepositoryName, revision: str | None = None
) -> Iterator[tuple[OpenedRepository, AdapterPage]]:
    """Raises as `adapter_page`."""
    with reading(view.backend, view.principal, repo) as opened:
        yield opened, gathered.adapter_page(opened, revision)


def show(view: View, page: AdapterPage, tab: str, data: dict[str, Any], **html: Any) -> Response:
    """A page of the adapter: what all of them begin with, and the tab's own data."""
    return view.render(f"pages/adapter/{tab}.html", {"adapter": page.shown, **data}, html={"tab": tab, **html})


@router.page(ADAPTER + "/v/{rev}")
@STORAGE.serves
def version(view: ViewDep, repo: Repo, rev: Revision) -> Response:
    return _overview(view, repo, rev)


def _overview(view: View, repo: RepositoryName, revision: str | None) -> Response:
    with opening(view, repo, revision) as (opened, page):
        card = gathered.find_file(opened, page.revision, gathered.CARD) if page.is_readable else None
        files = gathered.folder_of(opened, page.revision, "") if page.is_readable else []
        days = downloads.daily(opened)
        ways = using.ways(opened.reader, page, view.chrome.url)
        shows = showing.shown(opened, page)
    text = gathered.text_of(view.backend, card)
    readme = None if text is None else body_of(text)
    home = f"{view.chrome.root}/{quote(str(page.shown['id']))}"
    rendered = cards.render(readme, home, quote(page.revision, safe="")) if readme else None
    data = {"files": files, "readme": readme, "snippets": ways, "downloadsPerDay": days, "shows": shows}
    return show(view, page, "overview", data, rendered=rendered, fetched=drawn.of_downloads(days))


@router.page(ADAPTER + "/versions")
def versions(view: ViewDep, repo: Repo) -> Response:
    with opening(view, repo) as (opened, page):
        data = {"rows": gathered.versions_of(opened), "aliases": gathered.aliases_of(opened)}
    return show(view, page, "versions", data)


@router.page(ADAPTER + "/commits/{rev}")
def commits(view: ViewDep, repo: Repo, rev: Revision, cursor: str | None = None) -> Response:
    with opening(view, repo, rev) as (opened, page):
        rows, following = gathered.commits_of(opened, cursor or page.revision)
    return show(view, page, "commits", {"rows": rows, "following": following})


@router.page(ADAPTER + "/tree/{rev}")
def files(view: ViewDep, repo: Repo, rev: Revision) -> Response:
    return _folder(view, repo, rev, "")


@router.page(ADAPTER + "/tree/{rev}/{path:path}", twin=False)
def folder(view: ViewDep, repo: Repo, rev: Revision, path: Annotated[str, Path()]) -> Response:
    return _folder(view, repo, rev, decode(path).strip("/"))


def _folder(view: View, repo: RepositoryName, revision: str, path: str) -> Response:
    with opening(view, repo, revision) as (opened, page):
        entries = gathered.folder_of(opened, page.revision, path)
        names = gathered.branches_of(opened)
    return show(view, page, "files", {"folder": path, "entries": entries, "branches": names})


@router.page(ADAPTER + "/blob/{rev}/{path:path}", twin=False)
@STORAGE.serves
def file(view: ViewDep, repo: Repo, rev: Revision, path: PathInRevision) -> Response:
    with opening(view, repo, rev) as (opened, page):
        found = downloads.open_file(opened, page.revision, path)
    return show(view, page, "file", {"file": gathered.file_of(view.backend, found)})


@router.page(ADAPTER + "/weights/{rev}")
def weights(view: ViewDep, repo: Repo, rev: Revision, module: str | None = None) -> Response:
    with opening(view, repo, rev) as (opened, page):
        found = gathered.statistics_of(opened, page.revision)
    return show(view, page, "weights", found, **drawn.of_weights(found, module))


@router.page(ADAPTER + "/training/{rev}")
@STORAGE.serves
def training_run(view: ViewDep, repo: Repo, rev: Revision) -> Response:
    with opening(view, repo, rev) as (opened, page):
        record = gathered.training_of(page)
        points = training.recorded_points(record or {})
        log = None if points else gathered.find_file(opened, page.revision, training.STATE)
    points = points or training.points(gathered.text_of(view.backend, log) or "")
    data = {"record": record, "points": points, "stated": training.stated(record or {})}
    return show(view, page, "training", data, curve=drawn.of_training(points))


@router.page(ADAPTER + "/lineage")
def lineage_of(view: ViewDep, repo: Repo) -> Response:
    return _lineage(view, repo, None)


@router.page(ADAPTER + "/lineage/{rev}")
def lineage_at(view: ViewDep, repo: Repo, rev: Revision) -> Response:
    return _lineage(view, repo, rev)


def _lineage(view: View, repo: RepositoryName, revision: str | None) -> Response:
    with opening(view, repo, revision) as (opened, page):
        around = lineage.around(opened.reader, page)
    return show(view, page, "lineage", around, graph=drawn.of_lineage(page.shown["id"], around))


@router.page(ADAPTER + "/compat")
def compat(view: ViewDep, repo: Repo) -> Response:
    return _compat(view, repo, None)


@router.page(ADAPTER + "/compat/{rev}")
def compat_at(view: ViewDep, repo: Repo, rev: Revision) -> Response:
    return _compat(view, repo, rev)


def _compat(view: View, repo: RepositoryName, revision: str | None) -> Response:
    with opening(view, repo, revision) as (_, page):
        return show(view, page, "compat", {})


@router.page(ADAPTER)
@STORAGE.serves
def overview(view: ViewDep, repo: Repo) -> Response:
    return _overview(view, repo, None)
