"""When a base moves: its registration is the wish, and a worker judges what names it, each adapter once.

The verdict at the push stays what it was; beside it stands the one against the newest revision. Where the two differ,
that is an event, and a notice for whoever may write to the adapter.
"""

import logging
from collections.abc import Iterator

from lorahub.errors import BlobDamaged, Refusal
from lorahub.protocol.digests import CommitId

from lorahub_registry.core.accounts.permissions import Action, Principal, may
from lorahub_registry.core.accounts.service import known_accounts
from lorahub_registry.core.events.service import happened
from lorahub_registry.core.repositories.service import repositories_by_id
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.features.bases import service as bases
from lorahub_registry.features.bases.service import FoundBase
from lorahub_registry.features.checks import service as checks
from lorahub_registry.features.moves import queries
from lorahub_registry.features.moves.queries import JudgedMove, MovedBase
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session

__all__ = ["JudgedMove"]

logger = logging.getLogger("lorahub")

BAD = ("incompatible", "undecided")
_PAGE = 100
_MOST_NOTICES = 200


def wanted(backend: Backend, *, limit: int) -> list[int]:
    """Ids of registered names that nothing was judged against yet."""
    with backend.database.read() as session:
        return queries.unjudged(session, limit=limit)


def give_up(backend: Backend, name_id: int, reason: str) -> None:
    with backend.database.write() as session:
        queries.settle(session, name_id, fault=reason[:500])


def fulfil(backend: Backend, subject: str) -> str:
    """Judges every adapter that names the base, and returns how many. However often it runs, the result is the same."""
    name_id = int(subject)
    with backend.database.read() as session:
        moved = queries.moved_base(session, name_id)
    if moved is None:
        return "gone"
    found, count = _base(backend, moved), 0
    for commit_id, repository_id in _adapters(backend, moved):
        _judge(backend, moved, found, commit_id, repository_id)
        count += 1
    with backend.database.write() as session:
        queries.settle(session, name_id, fault=None)
    return f"{count} judged"


def _base(backend: Backend, moved: MovedBase) -> FoundBase:
    with backend.database.read() as session:
        stored = bases.stored_base(session, moved.base_id)
    return bases.load(backend, stored, revision=moved.revision or None)


def _adapters(backend: Backend, moved: MovedBase) -> Iterator[tuple[CommitId, int]]:
    after = ""
    while True:
        with backend.database.read() as session:
            page = queries.adapters_naming(session, moved.name, after=after, limit=_PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1][0]


def _judge(backend: Backend, moved: MovedBase, found: FoundBase, commit_id: CommitId, repository_id: int) -> None:
    with backend.database.read() as session:
        before = _before(session, moved, commit_id)
        repository = repositories_by_id(session, [repository_id]).get(repository_id)
    if before is None or repository is None:
        return
    try:
        after = checks.verdict_against(backend, commit_id, repository.full_name, moved.name, found)
    except (Refusal, BlobDamaged) as error:
        logger.info("%s at %s can't be judged: %s", repository.full_name, commit_id[:12], error)
        return
    with backend.database.write() as session:
        version = revisions.version_of(session, repository_id, commit_id)
        name = None if version is None else version.name
        is_new = queries.insert_verdict(session, moved.id, commit_id, repository_id, name, before, after)
        if is_new and before != after:
            said = {"version": name, "commit": commit_id, "from": before, "to": after}
            base = {"base": moved.name, "revision": moved.revision or None}
            happened(session, "check.changed", repository_id, {**base, **said}, by=moved.by)


def _before(session: Session, moved: MovedBase, commit_id: CommitId) -> str | None:
    """Against the base that the name meant before, as far as that is known; else when it was pushed."""
    if moved.former_id is not None:
        kept = checks.kept_verdicts(session, [commit_id], [moved.former_id])
        if (known := kept.get((commit_id, moved.former_id))) is not None:
            return known
    recorded = checks.recorded_of(session, [commit_id]).get(commit_id)
    return None if recorded is None else recorded.verdict


# --- asking -----------------------------------------------------------------------------------------------------------


def notices_for(session: Session, principal: Principal) -> list[JudgedMove]:
    """Adapters that the principal may write to, and that don't fit the newest revision of their base as they did."""
    own = [one.id for one in known_accounts(session, principal.roles) if may(principal, Action.WRITE, one.name)]
    return queries.moves_of(session, namespaces=own, verdicts=BAD, limit=_MOST_NOTICES) if own else []


def move_of(session: Session, commit_id: CommitId) -> JudgedMove | None:
    """What the newest revision of its base made of a commit's verdict. Whoever asks has decided who may see it."""
    found = queries.moves_of(session, commit_id=commit_id, limit=1)
    return found[0] if found else None
