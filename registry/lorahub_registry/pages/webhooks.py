"""Webhooks: one's own, what each was told, and the buttons to try, pause and replace."""

from typing import Any

from fastapi import Response
from lorahub.errors import InvalidInput
from lorahub.protocol.messages.events import KINDS
from lorahub.protocol.messages.message import as_json, wire_time
from lorahub.protocol.messages.webhooks import Watched

from lorahub_registry.core.accounts.viewer import FormDep, View, ViewDep
from lorahub_registry.core.workers import service as workers
from lorahub_registry.features.webhooks import service
from lorahub_registry.features.webhooks.service import ShownWebhook
from lorahub_registry.infrastructure.web.pages import PageRouter

router = PageRouter()
_LISTED = 50


@router.page("/webhooks")
def webhooks(view: ViewDep) -> Response:
    """Raises `NotAuthenticated`."""
    return _list_page(view)


def _list_page(view: View, made: ShownWebhook | None = None) -> Response:
    found = [_row(one) for one in service.webhooks_of(view.backend, view.principal)]
    html = {"made": made, "kinds": list(KINDS)}
    return view.render("pages/webhooks.html", {"webhooks": found}, html=html, is_secret=made is not None)


@router.form("/webhooks")
def add(form: FormDep) -> Response:
    watched = [Watched.parse(word) for word in form.text("watched").split()]
    kinds = form.text("kinds").replace(",", " ").split()
    made = service.add(form.view.backend, form.view.principal, url=form.text("url"), watched=watched, kinds=kinds)
    return _list_page(form.view, made)


@router.page("/webhooks/{webhook}")
def webhook(view: ViewDep, webhook: str) -> Response:
    """Raises `NotFound`."""
    return _own_page(view, service.show(view.backend, view.principal, webhook[:64]))


def _own_page(view: View, shown: ShownWebhook) -> Response:
    log = service.deliveries_of(view.backend, view.principal, shown.webhook.id, before=None, limit=_LISTED)
    note = workers.note(view.backend) if shown.waiting else None
    data = {"webhook": _row(shown), "messages": [as_json(one) for one in log], "note": note}
    html = {"made": shown.secret}
    return view.render("pages/webhook.html", data, html=html, is_secret=shown.secret is not None)


@router.form("/webhooks/{webhook}")
def act(form: FormDep, webhook: str) -> Response:
    """What the pressed button says."""
    backend, principal, one = form.view.backend, form.view.principal, webhook[:64]
    wanted = form.text("act")
    if wanted == "secret":
        return _own_page(form.view, service.replace_secret(backend, principal, one))
    if wanted in ("pause", "resume"):
        service.pause(backend, principal, one, is_paused=wanted == "pause")
        return form.view.redirect(f"/webhooks/{one}", "saved")
    if wanted == "test":
        service.try_out(backend, principal, one)
    elif wanted == "replay":
        service.replay(backend, principal, one, _number(form.text("message")))
    elif wanted == "remove":
        service.remove(backend, principal, one)
        return form.view.redirect("/webhooks", "deleted", one)
    else:
        raise InvalidInput("choose what to do with the webhook")
    return form.view.redirect(f"/webhooks/{one}", "told")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def _row(shown: ShownWebhook) -> dict[str, Any]:
    one = shown.webhook
    return {
        "id": one.id,
        "url": one.url,
        "by": one.by,
        "watched": [str(Watched(str(each["type"]), str(each["name"]))) for each in one.watched],
        "kinds": list(one.kinds),
        "createdAt": wire_time(one.created_at),
        "deliveredAt": None if one.delivered_at is None else wire_time(one.delivered_at),
        "paused": one.paused_at is not None,
        "reason": one.pause_reason,
        "waiting": shown.waiting,
    }
