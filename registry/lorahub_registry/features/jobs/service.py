"""Workers: each has a name of its own and a heartbeat; what a dead one had begun is taken over by any other.

A worker is dead when its heartbeat is old by the database's clock, or, seen from its own machine, when nobody holds the
lock of its name. One that was only asleep does no harm when it wakes: the engine writes down no outcome of a workflow
that has another owner by now, and every step gives the same result twice.
"""

import logging
import os
import re
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from lorahub.errors import InvalidConfiguration, NotFound

from lorahub_registry.features.jobs import queries
from lorahub_registry.features.jobs.queries import Worker
from lorahub_registry.features.merges import service as merges
from lorahub_registry.features.overlaps import service as overlaps
from lorahub_registry.features.statistics import service as statistics
from lorahub_registry.infrastructure import jobs
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import now
from lorahub_registry.infrastructure.jobs.engine import Workflow
from lorahub_registry.infrastructure.jobs.lock import hold, is_held

logger = logging.getLogger("lorahub")

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
    worker = Worker(name, secrets.token_hex(16), _place(backend), socket.gethostname(), os.getpid(), now(), now())
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


# --- the others -------------------------------------------------------------------------------------------------------


def take_over(backend: Backend) -> list[str]:
    """Queues again whatever is begun under a name that no living worker bears; ids."""
    owners = jobs.owners()  # first: who begins something later has signed on before
    dead = sorted(owners - _living(backend))
    taken = jobs.take_over(dead) if dead else []
    if taken:
        logger.warning("taken over from %s: %s", ", ".join(dead), ", ".join(taken))
    return taken


def _living(backend: Backend) -> set[str]:
    with backend.database.read() as session:
        at = queries.clock(session)
        workers = queries.all_workers(session)
    dead = [worker for worker in workers if not _is_alive(backend, worker, at)]
    if dead:
        with backend.database.write() as session:
            for worker in dead:
                queries.delete_worker(session, worker)
    return {worker.name for worker in workers if worker not in dead}


def _is_alive(backend: Backend, worker: Worker, at: datetime) -> bool:
    if at - worker.heartbeat_at > backend.settings.worker_lost_after:
        return False
    return worker.place != _place(backend) or is_held(_folder(backend) / f"{worker.name}.lock")


def _folder(backend: Backend) -> Path:
    return backend.settings.registry_home / "workers"


def _place(backend: Backend) -> str:
    """Whoever reads the same here sees the same locks."""
    path = _folder(backend) / "place"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        made = path.with_name(f"place-{secrets.token_hex(8)}")
        made.write_text(secrets.token_hex(16))
        with suppress(FileExistsError):  # another worker was first
            os.link(made, path)
        made.unlink()
    return path.read_text()


# --- the operator -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Overview:
    workers: list[tuple[Worker, float, bool]]
    """With the seconds since the last heartbeat, and whether it lives."""
    jobs: list[Workflow]

    def as_json(self) -> dict[str, Any]:
        return {
            "workers": [
                {
                    "name": worker.name,
                    "host": worker.host,
                    "pid": worker.pid,
                    "startedAt": worker.started_at.isoformat(),
                    "heartbeatAge": round(age, 1),
                    "alive": is_alive,
                }
                for worker, age, is_alive in self.workers
            ],
            "jobs": [
                {
                    "id": job.id,
                    "name": job.name,
                    "status": job.status.lower(),
                    "worker": job.worker,
                    "starts": job.starts,
                    "createdAt": job.created_at.isoformat(),
                    "since": job.since.isoformat(),
                }
                for job in self.jobs
            ],
        }

    def __str__(self) -> str:
        lines = [
            f"{worker.name:32} {worker.host} pid {worker.pid}   "
            f"{'alive' if is_alive else 'dead'}, heartbeat {age:.1f} s ago, since {worker.started_at:%Y-%m-%d %H:%M}"
            for worker, age, is_alive in self.workers
        ]
        lines += ["no worker is running"] if not self.workers else []
        lines += [
            f"{job.status.lower():10} {job.id}   {job.worker or '-'}   start {job.starts}, since {job.since:%H:%M:%S}"
            for job in self.jobs
        ]
        return "\n".join(lines)


def overview(backend: Backend) -> Overview:
    with backend.database.read() as session:
        at = queries.clock(session)
        workers = queries.all_workers(session)
    shown = [(one, max(0.0, (at - one.heartbeat_at).total_seconds()), _is_alive(backend, one, at)) for one in workers]
    return Overview(shown, jobs.unfinished(backend))


def requeue(backend: Backend, job_id: str, *, by: str) -> str:
    """Lets a job that failed or hangs be tried anew; its id without the try. Raises `NotFound`.

    `job_id` is one of `overview`, or a merge's own.
    """
    kind, _, rest = job_id.partition("/")
    subject = rest.partition("/")[0] if rest else kind
    job = f"{kind}/{subject}" if rest else f"merge/{subject}"
    wishes = {"merge": merges.reopen, "statistics": statistics.want_again, "overlap": overlaps.want_again}
    is_wanted = wishes.get(job.partition("/")[0])
    is_reopened = is_wanted(backend, subject, by=by) if is_wanted else False
    if not jobs.restart(backend, job) and not is_reopened:
        raise NotFound(f"no job is called {job_id[:100]}", hint="lorahub admin jobs lists them")
    return job
