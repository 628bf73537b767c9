"""Seals of the audit log: that no event was changed, added or taken away since it was sealed, nor a seal.

Each seal is a digest of the events since the one before and of that one's digest. Ids are given out in the order in
which changes begin, not in that in which they are committed; so a seal is made up to an id below which nobody is still
writing, which holds up no writer. Who can write to the database can write all seals anew: what proves against that is a
digest that was noted elsewhere, which each seal gives the log of its worker.
"""

import hashlib
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from lorahub_registry.core.audit.service import Event, events_between, record
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import now
from lorahub_registry.operations.seals import queries
from lorahub_registry.operations.seals.queries import Forgotten, Seal

logger = logging.getLogger("lorahub")

_NOTHING = "0" * 64
"""What the first seal follows."""
_PURPOSE = b"lorahub audit seal 1\n"
_MOST_EVENTS = 1000  # under one seal
_MOST_AT_ONCE = 20
_EVERY = timedelta(minutes=1)
_TRIES, _PAUSE_SECONDS = 20, 0.1


# --- sealing ----------------------------------------------------------------------------------------------------------


def seal(backend: Backend) -> None:
    """What has no seal, once a minute at most; many events over several calls, so that none takes long. Of workers that
    are at it at once, one does it.
    """
    with backend.database.read() as session:
        newest, sealed = queries.newest_ids(session)
    if newest == sealed:
        return
    with backend.database.read() as session:
        last = queries.newest_seal(session)
    if last is None or last.events == _MOST_EVENTS or now() - last.sealed_at >= _EVERY:
        _seal_to(backend, last, newest, most=_MOST_AT_ONCE)


def _seal_to(backend: Backend, last: Seal | None, newest: int, *, most: int = sys.maxsize) -> None:
    """Up to the event `newest`, unless it takes more than `most` seals, or somebody is writing for long."""
    if not _is_settled(backend):
        return
    for _ in range(most):
        if _last_event(last) >= newest:
            return
        with backend.database.read() as session:
            events = events_between(session, after=_last_event(last), last=newest, limit=_MOST_EVENTS)
        made = _following(last, events)
        try:
            with backend.database.write() as session:
                queries.insert_seal(session, made)
        except queries.IntegrityError:  # another worker's
            return
        last = made
        logger.info("audit log: the events up to %d are sealed by %s", made.last_event_id, made.digest)


def _is_settled(backend: Backend) -> bool:
    """Whether whoever wrote events when this was asked has come to an end, and may be seen."""
    with backend.database.read() as session:
        writing = queries.writers(session)
    for _ in range(_TRIES):
        if not writing:
            return True
        time.sleep(_PAUSE_SECONDS)
        with backend.database.read() as session:
            writing &= queries.writers(session)
    return not writing


def _following(last: Seal | None, events: Sequence[Event]) -> Seal:
    digest = _digest(last, events)
    return Seal(_number_after(last), events[-1].id, len(events), digest, now())


def _last_event(seal: Seal | None) -> int:
    return 0 if seal is None else seal.last_event_id


def _number_after(seal: Seal | None) -> int:
    return 1 if seal is None else seal.id + 1


def _digest(last: Seal | None, events: Sequence[Event]) -> str:
    hashed = hashlib.sha256(_PURPOSE + (_NOTHING if last is None else last.digest).encode() + b"\n")
    for event in events:
        hashed.update(event.line())
    return hashed.hexdigest()


# --- verifying --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Verification:
    events: int = 0
    """That are sealed, and here."""
    unsealed: int = 0
    newest: Seal | None = None
    forgotten: Forgotten | None = None
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": not self.problems,
            "events": self.events,
            "unsealed": self.unsealed,
            "seal": self.newest and {"lastEvent": self.newest.last_event_id, "digest": self.newest.digest},
            "forgotten": self.forgotten
            and {
                "lastEvent": self.forgotten.last_event_id,
                "before": self.forgotten.before.isoformat(),
                "by": self.forgotten.actor,
                "at": self.forgotten.at.isoformat(),
            },
            "problems": self.problems,
        }

    def __str__(self) -> str:
        lines = [f"{'✗' if self.problems else '✓'} {self.events} events are sealed, {self.unsealed} are not yet"]
        if self.newest is not None:
            lines.append(f"  newest seal: {self.newest.digest}, up to event {self.newest.last_event_id}")
        if self.forgotten is not None:
            lines.append(
                f"  events up to {self.forgotten.last_event_id}, from before {self.forgotten.before:%Y-%m-%d}, were "
                f"forgotten by {self.forgotten.actor} on {self.forgotten.at:%Y-%m-%d}"
            )
        return "\n".join([*lines, *(f"  {problem}" for problem in self.problems)])


def verify(backend: Backend, noted: Sequence[str] = ()) -> Verification:
    """Whether the log is what was sealed. `noted` are digests that were once those of seals."""
    found, missing, last = Verification(), dict.fromkeys(noted), None
    with backend.database.read() as session:
        found.forgotten = queries.last_forgotten(session)
    for seal in _all_seals(backend):
        missing.pop(seal.digest, None)
        _verify_one(backend, last, seal, found)
        last = found.newest = seal
    with backend.database.read() as session:
        found.unsealed = queries.count_events(session, after=_last_event(last))
    found.problems += [f"no seal has the digest {digest}: the log was cut off or written anew" for digest in missing]
    return found


def _all_seals(backend: Backend) -> Iterator[Seal]:
    after: int | None = 0
    while after is not None:
        with backend.database.read() as session:
            page = queries.seals(session, after=after, limit=_MOST_EVENTS)
        yield from page
        after = page[-1].id if page else None


def _verify_one(backend: Backend, last: Seal | None, seal: Seal, found: Verification) -> None:
    """Each follows from the stored digest of the one before, so that one change is told once, and where it is."""
    after = _last_event(last)
    which = f"events {after + 1} to {seal.last_event_id}"
    is_forgotten = found.forgotten is not None and seal.last_event_id <= found.forgotten.last_event_id
    with backend.database.read() as session:
        events = events_between(session, after=after, last=seal.last_event_id, limit=seal.events + 1)
    if seal.id != _number_after(last):
        found.problems.append(f"{which}: a seal before theirs is missing")
    elif is_forgotten:
        if events:
            found.problems.append(f"{which}: some that were forgotten are here; forget them again")
    elif len(events) != seal.events:
        here = "more" if len(events) > seal.events else str(len(events))
        found.problems.append(f"{which}: {seal.events} were sealed on {seal.sealed_at:%Y-%m-%d %H:%M}, {here} are here")
    elif _digest(last, events) != seal.digest:
        found.problems.append(f"{which}: they or their seal were changed after {seal.sealed_at:%Y-%m-%d %H:%M}")
    else:
        found.events += len(events)


# --- forgetting -------------------------------------------------------------------------------------------------------


def forget(backend: Backend, before: datetime, *, by: str) -> Forgotten | None:
    """Deletes the sealed events from before that time, as far as whole seals go; that they are gone, and who did it, is
    an event and a row of its own, and their seals stay. None where there are none.
    """
    with backend.database.read() as session:
        newest, _ = queries.newest_ids(session)
        last = queries.newest_seal(session)
    _seal_to(backend, last, newest)
    with backend.database.write() as session:
        known, until = queries.last_forgotten(session), queries.last_seal_before(session, before)
        if until is not None and (known is None or until.last_event_id > known.last_event_id):
            known = Forgotten(until.last_event_id, before, by, now())
            queries.insert_forgotten(session, known)
            record(
                session,
                actor=by,
                action="audit.forget",
                subject="audit log",
                last_event=until.last_event_id,
                before=before.isoformat(),
                seal=until.digest,
            )
    while known is not None:  # also what a run before has left
        with backend.database.write() as session:
            if not queries.delete_events(session, until=known.last_event_id, limit=_MOST_EVENTS):
                break
    return known
