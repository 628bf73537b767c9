"""Workers: each has a name of its own and a heartbeat.

A worker is dead when its heartbeat is old by the database's clock, or, seen from its own machine, when nobody holds the
lock of its name.
"""

import os
import re
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from lorahub.errors import InvalidConfiguration

from lorahub_registry.core.workers import queries
from lorahub_registry.core.workers.queries import Worker
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.jobs.lock import hold, is_held

__all__ = ["Worker"]

NOBODY = "no worker is running; jobs wait until one is"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_NAMES = 1000
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Badge:
    """A worker's hold on its name."""

    worker: Worker
    lock: BinaryIO


class NameLost(Exception):
    """A worker was silent for so long that another one bears its name."""


# --- one worker -------------------------------------------------------------------------------------------------------


def sign_on(backend: Backend, name: str | None) -> Badge:
    """Takes a name: the given one, or the first free one of this machine. Waits for a dead bearer's last heartbeat to
    grow old. Raises `InvalidConfiguration` for a name that can't be one, or that a living worker bears.
    """
    if name is None:
        host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:48].lstrip(".-") or "worker"
        names = (f"{host}-{number}" for number in range(1, _MOST_NAMES))
        badge = next((badge for one in names if (badge := _take(backend, one, wait=False))), None)
    elif _NAME.fullmatch(name):
        badge = _take(backend, name, wait=True)
    else:
        raise InvalidConfiguration(f"{name[:80]!r} is no name for a worker", hint="letters, digits, '.', '_' and '-'")
    if badge is None:
        raise InvalidConfiguration(
            f"a worker called {name or 'like this host'} is running", hint="choose another --name"
        )
    return badge


def _take(backend: Backend, name: str, *, wait: bool) -> Badge | None:
    lock = hold(_folder(backend) / f"{name}.lock")
    if lock is None:
        return None
    worker = Worker(name, secrets.token_hex(16), _make_place(backend), socket.gethostname(), os.getpid(), now(), now())
    end = time.monotonic() + backend.settings.worker_lost_after.total_seconds() * (2 if wait else 0)
    while not _insert(backend, worker):
        if time.monotonic() >= end:
            lock.close()
            return None
        time.sleep(_PAUSE_SECONDS)
    return Badge(worker, lock)


def _insert(backend: Backend, worker: Worker) -> bool:
    """In the place of a dead bearer of the name: one that is silent, or whose lock we hold."""
    try:
        with backend.database.write() as session:
            before = queries.by_name(session, worker.name)
            if before is not None:
                is_ours = before.place == worker.place
                silent_for = None if is_ours else backend.settings.worker_lost_after
                queries.delete_worker(session, before, silent_for=silent_for)
            queries.insert_worker(session, worker)
    except queries.IntegrityError:
        return False
    return True


def beat(backend: Backend, badge: Badge) -> None:
    """Raises `NameLost`."""
    with backend.database.write() as session:
        if queries.beat(session, badge.worker):
            return
    if not _insert(backend, badge.worker):
        raise NameLost(badge.worker.name)


def sign_off(backend: Backend, badge: Badge) -> None:
    """What it hasn't finished is others' from now on."""
    with backend.database.write() as session:
        queries.delete_worker(session, badge.worker)
    badge.lock.close()


# --- all of them ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    worker: Worker
    silent: float
    """Seconds since its last heartbeat."""
    is_alive: bool


def all_workers(backend: Backend) -> list[Seen]:
    with backend.database.read() as session:
        return _seen(session, backend)


def _seen(session: Session, backend: Backend) -> list[Seen]:
    at = queries.clock(session)
    found = queries.all_workers(session)
    return [
        Seen(worker, max(0.0, (at - worker.heartbeat_at).total_seconds()), _is_alive(backend, worker, at))
        for worker in found
    ]


def forget(backend: Backend, dead: list[Worker]) -> None:
    with backend.database.write() as session:
        for worker in dead:
            queries.delete_worker(session, worker)


def note(backend: Backend) -> str | None:
    """What whoever waits for a job should know: that there is nobody to do it. Asked before the job is queued: a fault
    behind that would hide what is done.
    """
    with backend.database.read() as session:
        return note_in(session, backend)


def note_in(session: Session, backend: Backend) -> str | None:
    """The same, for who has a session."""
    return None if any(seen.is_alive for seen in _seen(session, backend)) else NOBODY


def _is_alive(backend: Backend, worker: Worker, at: datetime) -> bool:
    if at - worker.heartbeat_at > backend.settings.worker_lost_after:
        return False
    return worker.place != _place(backend) or is_held(_folder(backend) / f"{worker.name}.lock")


def _folder(backend: Backend) -> Path:
    return backend.settings.registry_home / "workers"


def _place(backend: Backend) -> str | None:
    """Whoever reads the same here sees the same locks. None where no worker has ever been."""
    path = _place_file(backend)
    return path.read_text() if path.exists() else None


def _make_place(backend: Backend) -> str:
    path = _place_file(backend)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        made = path.with_name(f"place-{secrets.token_hex(8)}")
        made.write_text(secrets.token_hex(16))
        with suppress(FileExistsError):  # another worker was first
            os.link(made, path)
        made.unlink()
    return path.read_text()


def _place_file(backend: Backend) -> Path:
    return _folder(backend) / "place"
