"""What an adapter's owners decide: who sees it, who may read it, what it is called, which versions are withdrawn."""

from fastapi import Response
from lorahub.errors import InvalidInput
from lorahub.protocol.messages.message import wire_time
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.accounts.permissions import Action
from lorahub_registry.core.accounts.viewer import FormDep, View, ViewDep
from lorahub_registry.core.repositories import service as repositories
from lorahub_registry.core.upstreams import service as upstreams
from lorahub_registry.features.checks import service as checks
from lorahub_registry.features.references import service as references
from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.infrastructure.web.parameters import Repo
from lorahub_registry.pages.adapter import gathered
from lorahub_registry.pages.adapter.tabs import ADAPTER, opening, show

router = PageRouter()


@router.page(ADAPTER + "/settings")
def settings(view: ViewDep, repo: Repo) -> Response:
    """Raises `NotPermitted` for whoever doesn't manage it."""
    with opening(view, repo) as (opened, page):
        opened.require(Action.MANAGE)
        asking = repositories.requests_of(opened.session, opened.repository, "pending")
        data = {
            "policy": checks.policy_of(opened),
            "aliases": gathered.aliases_of(opened),
            "asking": [{"user": one.user, "at": wire_time(one.requested_at)} for one in asking],
        }
    return show(view, page, "settings", data)


@router.form(ADAPTER + "/settings")
def change(form: FormDep, repo: Repo) -> Response:
    gates = {"": False, "auto": "auto", "manual": "manual"}
    if form.text("gated") not in gates or form.text("visibility") not in ("public", "private"):
        raise InvalidInput("choose who sees the repository, and who may read its files")
    view, gated = form.view, gates[form.text("gated")]
    is_private = form.text("visibility") == "private"
    repositories.change_settings(view.backend, view.principal, repo, is_private=is_private, gated=gated)  # type: ignore[arg-type]  # False opens it
    return _back(view, repo)


@router.form(ADAPTER + "/settings/keep")
def keep(form: FormDep, repo: Repo) -> Response:
    upstreams.keep(form.view.backend, form.view.principal, repo, is_kept=form.text("keep") == "1")
    return _back(form.view, repo)


@router.form(ADAPTER + "/settings/policy")
def set_policy(form: FormDep, repo: Repo) -> Response:
    checks.set_policy(form.view.backend, form.view.principal, repo, form.text("policy"))
    return _back(form.view, repo)


@router.form(ADAPTER + "/settings/access")
def decide_access(form: FormDep, repo: Repo) -> Response:
    is_accepted = form.text("accept") == "1"
    repositories.handle_access(
        form.view.backend,
        form.view.principal,
        repo,
        user=form.text("user"),
        request_id=None,
        status="accepted" if is_accepted else "rejected",
        reason=None,
    )
    return form.view.redirect(f"/{repo}/settings", "granted" if is_accepted else "rejected", form.text("user"))


@router.form(ADAPTER + "/settings/move")
def move(form: FormDep, repo: Repo) -> Response:
    view = form.view
    moved = repositories.move(view.backend, view.principal, repo, RepositoryName.parse(form.text("to")))
    return view.redirect(f"/{moved.full_name}", "moved", moved.full_name)


@router.form(ADAPTER + "/settings/delete")
def delete(form: FormDep, repo: Repo) -> Response:
    found = repositories.find(form.view.backend, form.view.principal, repo, Action.MANAGE)
    if form.text("name") != found.full_name:
        raise InvalidInput(f"to delete it, write its whole name: {found.full_name}")
    repositories.delete(form.view.backend, form.view.principal, repo)
    return form.view.redirect(f"/{found.namespace}", "deleted", found.full_name)


@router.form(ADAPTER + "/versions/yank")
def yank(form: FormDep, repo: Repo) -> Response:
    reason = None if form.text("undo") == "1" else form.text("reason")
    found = references.yank(form.view.backend, form.view.principal, repo, form.text("version"), reason=reason)
    return form.view.redirect(f"/{repo}/versions", "yanked" if found.yanked else "unyanked", found.name)


@router.form(ADAPTER + "/versions/alias")
def set_alias(form: FormDep, repo: Repo) -> Response:
    view = form.view
    found = references.set_alias(
        view.backend, view.principal, repo, form.text("alias"), revision=form.text("version"), is_protected=None
    )
    return view.redirect(f"/{repo}/versions", "alias", found.name)


@router.form(ADAPTER + "/ask-access")
def ask_for_access(form: FormDep, repo: Repo) -> Response:
    repositories.ask_for_access(form.view.backend, form.view.principal, repo)
    return form.view.redirect(f"/{repo}", "asked")


def _back(view: View, repo: RepositoryName) -> Response:
    return view.redirect(f"/{repo}/settings", "saved")
