"""Runs of mirrors: one workflow for each wish, and for each interval."""

from dbos import DBOS

from lorahub_registry.features.mirrors import service
from lorahub_registry.features.mirrors.service import Mirror
from lorahub_registry.infrastructure import jobs
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.jobs import Queue

QUEUE = Queue("mirrors", at_once=1)
_MOST_QUEUED = 16
_MOST_STARTS = 10


@jobs.step("mirrors.run")
def _run_once(mirror_id: int) -> str:
    return service.run(jobs.backend(), mirror_id, go_on=jobs.shift.go_on)


@DBOS.workflow(name="mirror", max_recovery_attempts=_MOST_STARTS)
def _mirror(mirror_id: int) -> str:
    return _run_once(mirror_id)


def start_due(backend: Backend) -> None:
    """All workers name a run alike, by what makes it due: whichever is first queues it."""
    for mirror in service.due(backend, limit=_MOST_QUEUED):
        if reason := jobs.enqueue(QUEUE.name, f"mirror/{mirror.id}/{_cause(mirror)}", _mirror, mirror.id):
            service.give_up(backend, mirror, reason)


def _cause(mirror: Mirror) -> str:
    at = mirror.wanted_at or mirror.checked_at or mirror.created_at
    return f"{'wish' if mirror.wanted_at else 'after'}-{int(at.timestamp() * 1000)}"
