"""The feed, as somebody may see it at the moment of reading."""

from collections.abc import Sequence

from lorahub.errors import InvalidInput
from lorahub.protocol.messages.events import KINDS

from lorahub_registry.core.accounts.permissions import Action, Principal, is_site_admin, may
from lorahub_registry.core.accounts.service import known_accounts
from lorahub_registry.core.events import service as events
from lorahub_registry.core.events.service import Event, EventFilter, EventPage, Sight
from lorahub_registry.core.repositories.service import visible_namespaces
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session, now

__all__ = ["Event", "EventFilter", "EventPage", "Sight"]

MOST_EVENTS = 1000  # of one answer


def wanted(kinds: Sequence[str], name: str | None) -> EventFilter:
    """`alias.*` means all kinds of aliases. Raises `InvalidInput` for a kind that there isn't."""
    known = [kind for kind in KINDS if kind in kinds or f"{kind.partition('.')[0]}.*" in kinds]
    families = {kind.partition(".")[0] for kind in KINDS}
    if unknown := [kind for kind in kinds if kind not in KINDS and kind.removesuffix(".*") not in families]:
        raise InvalidInput(f"no kind of event is called {unknown[0][:60]!r}", hint=f"there are {', '.join(KINDS)}")
    return EventFilter(known, name)


def sight_of(session: Session, principal: Principal) -> Sight:
    if is_site_admin(principal):
        return Sight(principal.account_id, None, None)
    managed = [one.id for one in known_accounts(session, principal.roles) if may(principal, Action.MANAGE, one.name)]
    return Sight(principal.account_id, visible_namespaces(session, principal), managed)


def read(backend: Backend, principal: Principal, asked: EventFilter, *, after: int | None, limit: int) -> EventPage:
    """What happened after that number, by now; without one nothing, and where the feed is.

    Raises `InvalidInput` for a number that is none yet, `EventsForgotten`.
    """
    last = events.number_all(backend).last
    if after is None:
        return EventPage([], last)
    with backend.database.snapshot() as session:
        return events.page_after(session, sight_of(session, principal), asked, after, limit)


def forget_old(backend: Backend) -> int:
    """What happened longer ago than it is kept; how many events."""
    return events.forget(backend, now() - backend.settings.events_kept)
