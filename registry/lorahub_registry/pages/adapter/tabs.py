"""An adapter's pages: what it is, its versions, files, commits, weights, training, lineage, and what takes it."""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Path, Response
from lorahub.adapters.model_card import body_of
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.accounts.viewer import View, ViewDep
from lorahub_registry.features.downloads import service as downloads
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.infrastructure.web.parameters import PathInRevision, Repo, Revision
from lorahub_registry.infrastructure.web.raw_path import decode
from lorahub_registry.pages import drawn
from lorahub_registry.pages.adapter import cards, gathered, lineage, showing, training, using
from lorahub_registry.pages.adapter.gathered import Opened

router = PageRouter()
ADAPTER = "/{namespace:namespace}/{name}"


def show(view: View, opened: Opened, tab: str, data: dict[str, Any], **html: Any) -> Response:
    """A page of the adapter: what all of them begin with, and the tab's own data."""
    return view.render(f"pages/adapter/{tab}.html", {"adapter": opened.shown, **data}, html={"tab": tab, **html})


def opened_at(view: View, repo: RepositoryName, revision: str | None) -> Opened:
    return gathered.open_adapter(view.backend, view.principal, repo, revision)


def usual(view: ViewDep, repo: Repo) -> Opened:
    return opened_at(view, repo, None)


def at_revision(view: ViewDep, repo: Repo, rev: Revision) -> Opened:
    return opened_at(view, repo, rev)


Usual = Annotated[Opened, Depends(usual)]
AtRevision = Annotated[Opened, Depends(at_revision)]


@router.page(ADAPTER + "/v/{rev}")
@STORAGE.serves
def version(view: ViewDep, opened: AtRevision) -> Response:
    return _overview(view, opened)


def _overview(view: View, opened: Opened) -> Response:
    text = gathered.text_of(view.backend, opened, view.principal, gathered.CARD) if opened.is_readable else None
    files = _top(view, opened) if opened.is_readable else []
    readme = None if text is None else body_of(text)
    home = f"{view.chrome.root}/{quote(str(opened.shown['id']))}"
    rendered = cards.render(readme, home, quote(opened.revision, safe="")) if readme else None
    days = downloads.daily(view.backend, view.principal, opened.name)
    ways = using.ways(view.backend, view.principal, opened, view.chrome.url)
    data = {"files": files, "readme": readme, "snippets": ways, "downloadsPerDay": days}
    data["shows"] = showing.shown(view.backend, view.principal, opened)
    return show(view, opened, "overview", data, rendered=rendered, fetched=drawn.of_downloads(days))


def _top(view: View, opened: Opened) -> list[dict[str, Any]]:
    return gathered.folder_of(view.backend, view.principal, opened.name, opened.revision, "")


@router.page(ADAPTER + "/versions")
def versions(view: ViewDep, opened: Usual) -> Response:
    rows = gathered.versions_of(view.backend, view.principal, opened.name)
    aliases = gathered.aliases_of(view.backend, view.principal, opened.name)
    return show(view, opened, "versions", {"rows": rows, "aliases": aliases})


@router.page(ADAPTER + "/commits/{rev}")
def commits(view: ViewDep, opened: AtRevision, cursor: str | None = None) -> Response:
    rows, following = gathered.commits_of(view.backend, view.principal, opened.name, cursor or opened.revision)
    return show(view, opened, "commits", {"rows": rows, "following": following})


@router.page(ADAPTER + "/tree/{rev}")
def files(view: ViewDep, opened: AtRevision) -> Response:
    return _folder(view, opened, "")


@router.page(ADAPTER + "/tree/{rev}/{path:path}", twin=False)
def folder(view: ViewDep, opened: AtRevision, path: Annotated[str, Path()]) -> Response:
    return _folder(view, opened, decode(path).strip("/"))


def _folder(view: View, opened: Opened, path: str) -> Response:
    entries = gathered.folder_of(view.backend, view.principal, opened.name, opened.revision, path)
    names = gathered.branches_of(view.backend, view.principal, opened.name)
    return show(view, opened, "files", {"folder": path, "entries": entries, "branches": names})


@router.page(ADAPTER + "/blob/{rev}/{path:path}", twin=False)
@STORAGE.serves
def file(view: ViewDep, opened: AtRevision, path: PathInRevision) -> Response:
    found = gathered.file_of(view.backend, view.principal, opened.name, opened.revision, path)
    return show(view, opened, "file", {"file": found})


@router.page(ADAPTER + "/weights/{rev}")
def weights(view: ViewDep, opened: AtRevision, module: str | None = None) -> Response:
    found = gathered.statistics_of(view.backend, view.principal, opened)
    return show(view, opened, "weights", found, **drawn.of_weights(found, module))


@router.page(ADAPTER + "/training/{rev}")
@STORAGE.serves
def training_run(view: ViewDep, opened: AtRevision) -> Response:
    record = gathered.training_of(view.backend, opened)
    points = training.recorded_points(record or {})
    if not points:
        points = training.points(gathered.text_of(view.backend, opened, view.principal, training.STATE) or "")
    data = {"record": record, "points": points, "stated": training.stated(record or {})}
    return show(view, opened, "training", data, curve=drawn.of_training(points))


@router.page(ADAPTER + "/lineage")
def lineage_of(view: ViewDep, opened: Usual) -> Response:
    around = lineage.around(view.backend, view.principal, opened)
    return show(view, opened, "lineage", around, graph=drawn.of_lineage(opened.shown["id"], around))


@router.page(ADAPTER + "/lineage/{rev}")
def lineage_at(view: ViewDep, opened: AtRevision) -> Response:
    return lineage_of(view, opened)


@router.page(ADAPTER + "/compat")
def compat(view: ViewDep, opened: Usual) -> Response:
    return show(view, opened, "compat", {})


@router.page(ADAPTER + "/compat/{rev}")
def compat_at(view: ViewDep, opened: AtRevision) -> Response:
    return compat(view, opened)


@router.page(ADAPTER)
@STORAGE.serves
def overview(view: ViewDep, opened: Usual) -> Response:
    return _overview(view, opened)
