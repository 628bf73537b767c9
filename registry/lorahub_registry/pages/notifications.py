"""What needs the visitor's attention: adapters of his that fail their check, bases that moved away from others, and
merges of his that failed.
"""

from fastapi import Response
from lorahub.protocol.messages.message import wire_time

from lorahub_registry.core.access import looking
from lorahub_registry.core.accounts.permissions import Action, may
from lorahub_registry.core.accounts.service import organisations_of
from lorahub_registry.core.accounts.viewer import ViewDep
from lorahub_registry.features.catalog.search import Search
from lorahub_registry.features.merges import service as merges
from lorahub_registry.features.moves import service as moves
from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.pages import listing
from lorahub_registry.pages.adapter.gathered import moved_row

router = PageRouter()
FAILED = ("incompatible", "undecided")


@router.page("/notifications")
def notifications(view: ViewDep) -> Response:
    """Raises `NotAuthenticated`."""
    principal = view.principal
    principal.require_account()
    names = [principal.name, *(org.account.name for org in organisations_of(view.backend, principal))]
    searches = [
        Search(author=name, labels=(f"verdict:{verdict}",))
        for verdict in FAILED
        for name in names
        if may(principal, Action.WRITE, name)
    ]
    with looking(view.backend, principal) as reader:
        rows = [row for search in searches for row in listing.adapters(reader, search)[0]]
        moved = [moved_row(one) for one in moves.notices_for(reader.session, principal)]
    failed = [
        {"job": shown.job.id, "target": shown.target, "error": shown.job.error, "at": wire_time(shown.job.created_at)}
        for shown in merges.own_jobs(view.backend, principal)
        if shown.job.status == "failed"
    ]
    return view.render("pages/notifications.html", {"adapters": rows, "moved": moved, "merges": failed})
