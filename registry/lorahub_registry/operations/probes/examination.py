"""`lorahub admin doctor`: tries out what the registry stands on; changes nothing that lasts."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

from lorahub_registry.core.workers import service as workers
from lorahub_registry.features.merges import device as merge_device
from lorahub_registry.infrastructure import jobs
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import now
from lorahub_registry.infrastructure.database.migrate import Schema, pending
from lorahub_registry.infrastructure.observations import Observation, expect, observe
from lorahub_registry.infrastructure.storage.object_keys import doctor_prefix
from lorahub_registry.operations.probes import service

WORST_SKEW_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Examination:
    observations: list[Observation]

    @property
    def is_healthy(self) -> bool:
        return all(one.level != "error" for one in self.observations)

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.is_healthy, "observations": [asdict(one) for one in self.observations]}

    def __str__(self) -> str:
        marks = {"ok": "✓", "note": "·", "error": "✗"}
        return "\n".join(f"{marks[one.level]} {one.subject:24} {one.text}" for one in self.observations)


def examine(backend: Backend) -> Examination:
    return Examination(
        [
            *_examine_database(backend),
            *backend.blobs.examine(doctor_prefix()),
            observe("stored bytes", lambda: _damage(backend)),
            *_examine_workers(backend),
        ]
    )


def _examine_database(backend: Backend) -> Iterator[Observation]:
    yield observe("database", lambda: _reach_database(backend))
    yield observe("database schema", lambda: _schema(backend))
    yield observe("database clock", lambda: _database_clock(backend))


def _reach_database(backend: Backend) -> str:
    started = perf_counter()
    service.time_of_the_database(backend)
    kind = "SQLite" if backend.database.is_sqlite else "PostgreSQL"
    return f"{kind}, answers in {1000 * (perf_counter() - started):.0f} ms"


def _schema(backend: Backend) -> str:
    schema, missing = pending(backend.database)
    expect(schema is not Schema.NEWER, "of a newer lorahub: run that version, or a newer one")
    expect(not missing, f"{len(missing)} migrations are missing: run lorahub admin migrate")
    return "of a newer lorahub, and this one can serve it" if schema is Schema.AHEAD else "newest"


def _database_clock(backend: Backend) -> str:
    skew = abs((now() - service.time_of_the_database(backend)).total_seconds())
    expect(skew < WORST_SKEW_SECONDS, f"the database's clock and ours differ by {skew:.0f} s")
    return f"differs by {skew:.0f} s"


def _damage(backend: Backend) -> str:
    damaged = service.count(backend).damaged_blobs
    expect(not damaged, f"{damaged} files are damaged, and not served: lorahub admin scrub names them")
    return "no damage is known"


def _examine_workers(backend: Backend) -> Iterator[Observation]:
    yield observe("merge device", lambda: merge_device.examine(backend.settings))
    yield observe("job engine", lambda: _job_engine(backend))
    yield observe("workers", lambda: _names_of_workers(backend), otherwise="note")
    yield observe("jobs", lambda: _waiting_jobs(backend))


def _job_engine(backend: Backend) -> str:
    return f"knows {len(jobs.unfinished(backend))} that are not over, or ended with a fault"


def _names_of_workers(backend: Backend) -> str:
    alive = [seen.worker.name for seen in workers.all_workers(backend) if seen.is_alive]
    expect(alive, "none is running: lorahub worker, or serve with LORAHUB_WORKER=true")
    return ", ".join(alive)


def _waiting_jobs(backend: Backend) -> str:
    waiting = service.count(backend).waiting_jobs
    expect(not waiting or workers.note(backend) is None, f"{waiting} wait for a worker, and none is running")
    return f"{waiting} wait, or are under way"
