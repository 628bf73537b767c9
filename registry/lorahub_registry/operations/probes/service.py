"""Whether this process can do its work: what it depends on, asked one by one, each within a second; and a census."""

import functools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from lorahub_registry.core.workers import service as workers
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import now
from lorahub_registry.infrastructure.database.migrate import is_servable
from lorahub_registry.operations.probes import queries
from lorahub_registry.operations.probes.asking import Asking, NotInTime
from lorahub_registry.operations.probes.queries import Jobs

PROBE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Probed:
    """`fault` is None where all is well; it names the kind of failure, never an address or a credential."""

    name: str
    fault: str | None
    milliseconds: float
    is_needed: bool
    """Whether requests can't be answered without it."""


Probe = Callable[[Backend], str | None]
"""What is wrong, or None. Whatever it raises is wrong too."""


def answers(backend: Backend) -> None:
    """The database does, or this raises."""
    with backend.database.read() as session:
        queries.answers(session)


def _migrations(backend: Backend) -> str | None:
    return None if is_servable(backend.database) else "OutdatedSchema"


def _storage(backend: Backend) -> None:
    backend.blobs.probe()


class Health(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    """Every request is answered, and something is missing."""
    UNAVAILABLE = "unavailable"


def health_of(found: list[Probed]) -> Health:
    faulty = [probed for probed in found if probed.fault is not None]
    if any(probed.is_needed for probed in faulty):
        return Health.UNAVAILABLE
    return Health.DEGRADED if faulty else Health.OK


class Prober:
    NEEDED: Mapping[str, Probe] = {"database": answers, "migrations": _migrations, "storage": _storage}
    MAY_BE_LATE = frozenset({"storage"})
    """Much is answered without it, and it is as late for every other process: nobody is better to be asked."""
    PROBES: Mapping[str, Probe] = {**NEEDED, "workers": workers.note}

    def __init__(self, backend: Backend) -> None:
        self._questions = {name: Asking(name, functools.partial(probe, backend)) for name, probe in self.PROBES.items()}

    def probe(self) -> list[Probed]:
        """All at once; takes no longer than `PROBE_SECONDS`."""
        started = time.monotonic()
        asked = [(name, question.ask()) for name, question in self._questions.items()]
        return [self._outcome(name, future, started) for name, future in asked]

    def close(self) -> None:
        for question in self._questions.values():
            question.close()

    @classmethod
    def _outcome(cls, name: str, future: Future[str | None], started: float) -> Probed:
        is_needed = name in cls.NEEDED
        try:
            fault = future.result(timeout=max(0.0, started + PROBE_SECONDS - time.monotonic()))
        except NotInTime:
            fault = f"no answer within {PROBE_SECONDS:g} s"
            is_needed = is_needed and name not in cls.MAY_BE_LATE
        except Exception as error:  # noqa: BLE001 (whatever it is, it isn't ready)
            fault = type(error).__name__
        return Probed(name, fault, round(1000 * (time.monotonic() - started), 1), is_needed)


def time_of_the_database(backend: Backend) -> datetime:
    with backend.database.read() as session:
        return queries.time_of_the_database(session)


# --- census -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Census:
    accounts: int
    repositories: int
    blobs: int
    blob_bytes: int
    damaged_blobs: int
    open_uploads: int
    open_upload_bytes: int
    workers: int
    jobs: list[Jobs]
    oldest_job_seconds: dict[str, float]
    """By kind, of jobs that are not over."""

    @property
    def waiting_jobs(self) -> int:
        """Those that are not over."""
        return sum(found.count for found in self.jobs if found.state in queries.OPEN)


def count(backend: Backend) -> Census:
    alive = sum(seen.is_alive for seen in workers.all_workers(backend))
    with backend.database.read() as session:
        blobs, blob_bytes, damaged_blobs = queries.blobs(session)
        open_uploads, open_upload_bytes = queries.open_uploads(session)
        jobs = queries.jobs(session)
        return Census(
            accounts=queries.accounts(session),
            repositories=queries.repositories(session),
            blobs=blobs,
            blob_bytes=blob_bytes,
            damaged_blobs=damaged_blobs,
            open_uploads=open_uploads,
            open_upload_bytes=open_upload_bytes,
            workers=alive,
            jobs=jobs,
            oldest_job_seconds=_oldest(jobs),
        )


def _oldest(jobs: list[Jobs]) -> dict[str, float]:
    ages = {found.kind: 0.0 for found in jobs}
    for found in jobs:
        if found.state in queries.OPEN:
            ages[found.kind] = max(ages[found.kind], (now() - found.oldest).total_seconds())
    return ages
