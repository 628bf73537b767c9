"""The administrators' pages."""

from typing import Annotated, Any

from fastapi import Query, Response

from lorahub_registry.core.accounts.viewer import FormDep, View, ViewDep
from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.operations.probes import administration as admin

router = PageRouter()


def _show(view: View, tab: str, data: dict[str, Any], **html: Any) -> Response:
    html["tab"] = tab
    return view.render(f"operations/{tab}.html", data, html=html, is_secret=bool(html.get("made")))


@router.page("/admin")
def overview(view: ViewDep) -> Response:
    return _show(view, "overview", admin.overview(view.backend, view.principal, view.request.app.state.prober))


@router.page("/admin/users")
def users(view: ViewDep) -> Response:
    return _show(view, "users", {"users": admin.users(view.backend, view.principal)}, made=None)


@router.form("/admin/users")
def add_user(form: FormDep) -> Response:
    view = form.view
    made = admin.add_user(view.backend, view.principal, form.text("name"), form.text("fullname"))
    return _show(view, "users", {"users": admin.users(view.backend, view.principal)}, made=made)


@router.form("/admin/users/disable")
def set_disabled(form: FormDep) -> Response:
    is_disabled = form.text("undo") != "1"
    admin.set_disabled(form.view.backend, form.view.principal, form.text("name"), is_disabled=is_disabled)
    return form.view.redirect("/admin/users", "disabled" if is_disabled else "enabled", form.text("name"))


@router.page("/admin/jobs")
def jobs(view: ViewDep) -> Response:
    return _show(view, "jobs", admin.work(view.backend, view.principal))


@router.form("/admin/jobs/requeue")
def requeue(form: FormDep) -> Response:
    admin.requeue(form.view.backend, form.view.principal, form.text("job"))
    return form.view.redirect("/admin/jobs", "queued")


@router.page("/admin/quarantine")
def quarantined(view: ViewDep) -> Response:
    return _show(view, "quarantine", admin.out_of_circulation(view.backend, view.principal))


@router.form("/admin/quarantine")
def quarantine(form: FormDep) -> Response:
    admin.quarantine(form.view.backend, form.view.principal, form.text("name"), form.text("reason"))
    return form.view.redirect("/admin/quarantine", "quarantined", form.text("name"))


@router.form("/admin/quarantine/release")
def release(form: FormDep) -> Response:
    admin.release(form.view.backend, form.view.principal, form.text("name"))
    return form.view.redirect("/admin/quarantine", "released", form.text("name"))


@router.page("/admin/audit")
def audit(view: ViewDep, cursor: Annotated[int | None, Query(ge=1, le=2**62)] = None) -> Response:
    rows, following = admin.audit(view.backend, view.principal, before=cursor)
    return _show(view, "audit", {"events": rows, "next": following})
