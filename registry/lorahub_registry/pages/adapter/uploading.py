"""A version published from a browser, a new repository for the first one, and the card's editor."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Response
from lorahub.adapters.model_card import body_of
from lorahub.adapters.rules import RULES
from lorahub.errors import (
    BlobNotFound,
    Conflict,
    IntegrityMismatch,
    InvalidAdapter,
    InvalidInput,
    LimitExceeded,
    LorahubError,
    NotFound,
    ParentMoved,
)
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import FilePath, parse_path
from starlette.datastructures import UploadFile

from lorahub_registry.core.access import OpenedRepository, reading
from lorahub_registry.core.accounts.permissions import Action
from lorahub_registry.core.accounts.viewer import FilesFormDep, FormDep, View, ViewDep
from lorahub_registry.core.repositories import service as repositories
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.multipart import MOST_FILES
from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.infrastructure.web.parameters import Repo
from lorahub_registry.pages.adapter import cards, gathered, publishing
from lorahub_registry.pages.adapter.gathered import AdapterPage
from lorahub_registry.pages.adapter.publishing import BRANCH, Kept
from lorahub_registry.pages.adapter.tabs import ADAPTER

router = PageRouter()
MOST_TITLE = 200
_REFUSALS = (InvalidInput, BlobNotFound, Conflict, LimitExceeded, IntegrityMismatch)


@contextmanager
def opening_to_write(view: View, repo: RepositoryName) -> Iterator[tuple[OpenedRepository, AdapterPage]]:
    """Raises as `require`: nobody else sees the form, and no byte of anybody else's is received."""
    view.principal.require_account()
    with reading(view.backend, view.principal, repo) as opened:
        opened.require(Action.WRITE)
        yield opened, gathered.adapter_page(opened, BRANCH)


def writable(view: ViewDep, repo: Repo) -> AdapterPage:
    with opening_to_write(view, repo) as (_, page):
        return page


Writable = Annotated[AdapterPage, Depends(writable)]


# --- a version --------------------------------------------------------------------------------------------------------


@router.page(ADAPTER + "/upload", twin=False)
def upload(view: ViewDep, page: Writable) -> Response:
    return _upload_page(view, page, None, [])


@router.form(ADAPTER + "/upload")
@STORAGE.serves
def take(page: Writable, form: FilesFormDep) -> Response:
    """`check` publishes nothing; without it, what fits becomes the next version."""
    view, kept = form.view, list[Kept]()
    try:
        kept = [publishing.kept_of(field) for field in form.values.get("kept", [])[:MOST_FILES]]
        kept += [_keep(view, page, file) for file in form.files]
        if form.text("check"):
            found = publishing.check(view.backend, view.principal, page.name, kept)
            return _upload_page(view, page, found, kept, title=form.text("title"))
        title = form.text("title")[:MOST_TITLE] or "Upload from the browser"
        published = publishing.publish(view.backend, view.principal, page.name, kept, title=title)
    except InvalidAdapter as error:
        return _refused(view, page, kept, error, title=form.text("title"))
    except _REFUSALS as error:
        return _upload_page(view, page, publishing.refusal_of(error), [], status=error.status)
    return view.redirect(f"/{published.repository.full_name}/v/{published.version}", "published", published.version)


def _keep(view: View, page: AdapterPage, file: UploadFile) -> Kept:
    path = parse_path(file.filename or "")
    return publishing.keep(view.backend, view.principal, page.name, path, file.file, file.size or 0)


def _refused(view: View, page: AdapterPage, kept: list[Kept], error: LorahubError, *, title: str) -> Response:
    """The refusal names what it was for; the check names all that was found."""
    found = publishing.check(view.backend, view.principal, page.name, kept)
    return _upload_page(view, page, found, kept, status=error.status, title=title)


def _upload_page(
    view: View,
    page: AdapterPage,
    found: dict[str, Any] | None,
    kept: list[Kept],
    *,
    status: int = 200,
    title: str = "",
) -> Response:
    data = {
        "adapter": page.shown,
        "found": found,
        "kept": [{**file.as_json(), "field": file.as_field()} for file in kept],
        "title": title[:MOST_TITLE],
        "most": view.backend.settings.form_body_bytes,
    }
    return view.render("pages/adapter/upload.html", data, html={"tab": "upload"}, status=status, is_secret=True)


# --- a repository -----------------------------------------------------------------------------------------------------


@router.page("/new", twin=False)
def new(view: ViewDep, namespace: str = "") -> Response:
    view.principal.require_account()
    return view.render("pages/new.html", {"namespace": namespace[:96] or view.principal.name}, is_secret=True)


@router.form("/new")
@STORAGE.serves
def create(form: FormDep) -> Response:
    view = form.view
    if form.text("visibility") not in ("public", "private"):
        raise InvalidInput("choose who sees the repository")
    name = RepositoryName.parse(f"{form.text('namespace')}/{form.text('name')}")
    made = repositories.create(view.backend, view.principal, name, is_private=form.text("visibility") == "private")
    return view.redirect(f"/{made.full_name}/upload")


# --- its card ---------------------------------------------------------------------------------------------------------


@router.page(ADAPTER + "/card", twin=False)
@STORAGE.serves
def edit(view: ViewDep, repo: Repo) -> Response:
    with opening_to_write(view, repo) as (opened, page):
        card = gathered.find_file(opened, page.revision, gathered.CARD)
    return _editor(view, page, gathered.text_of(view.backend, card) or "")


@router.form(ADAPTER + "/card")
@STORAGE.serves
def save(page: Writable, form: FormDep) -> Response:
    """A card that somebody else changed meanwhile is shown beside the one that was sent, and neither is lost."""
    view = form.view
    text = form.fields.get("text", "").replace("\r\n", "\n")
    parent = form.text("parent")
    if form.text("preview"):
        return _editor(view, page, text, parent=parent, is_preview=True)
    try:
        publishing.save_card(view.backend, view.principal, page.name, FilePath(gathered.CARD), text, parent=parent)
    except ParentMoved as error:
        return _editor(view, page, text, theirs=_card(view, page), status=error.status)
    except _REFUSALS as error:
        return _editor(view, page, text, parent=parent, error=error, status=error.status)
    return view.redirect(f"/{page.name}/v/{BRANCH}", "card")


def _card(view: View, page: AdapterPage) -> str:
    with reading(view.backend, view.principal, page.name) as opened:
        card = gathered.find_file(opened, page.revision, gathered.CARD)
    return gathered.text_of(view.backend, card) or ""


def _editor(
    view: View,
    page: AdapterPage,
    text: str,
    *,
    parent: str | None = None,
    is_preview: bool = False,
    theirs: str | None = None,
    error: LorahubError | None = None,
    status: int = 200,
) -> Response:
    body = body_of(text)
    home = f"{view.chrome.root}/{quote(str(page.name))}"
    data = {
        "adapter": page.shown,
        "text": text,
        "body": body,
        "parent": parent or page.model.commit.id,
        "isPreview": is_preview,
        "theirs": theirs,
        "error": None if error is None else {"message": error.message, "hint": error.hint},
    }
    rendered = cards.render(body, home, BRANCH) if is_preview else None
    return view.render(
        "pages/adapter/card.html", data, html={"tab": "card", "rendered": rendered}, status=status, is_secret=True
    )


# --- rules ------------------------------------------------------------------------------------------------------------


@router.page("/docs/rules/{rule}")
def rule(view: ViewDep, rule: str) -> Response:
    known = RULES.get(rule.upper())
    if known is None:
        raise NotFound("no rule is called that", hint="lorahub explain lists them")
    data = {
        "id": known.id,
        "severity": known.severity.value,
        "title": known.title,
        "cause": known.cause,
        "cure": known.cure,
        "example": known.example,
    }
    return view.render("pages/rule.html", data)
