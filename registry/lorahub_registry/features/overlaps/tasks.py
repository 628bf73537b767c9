"""Overlaps as durable jobs: one workflow for each pair of digests, in a queue of their own, so that no number of them
keeps the statistics of a push waiting.
"""

from dbos import DBOS

from lorahub_registry.features.overlaps import service
from lorahub_registry.infrastructure import jobs
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.jobs import Queue

QUEUE = Queue("overlaps", at_once=1)
_MOST_QUEUED = 16
_MOST_STARTS = 10


@jobs.step("overlaps.fulfil")
def _fulfil(subject: str) -> str:
    return service.fulfil(jobs.backend(), subject)


@DBOS.workflow(name="overlap", max_recovery_attempts=_MOST_STARTS)
def _overlap(subject: str) -> str:
    return _fulfil(subject)


def start_wanted(backend: Backend) -> None:
    """Queues the oldest wishes."""
    for subject in service.wanted(backend, limit=_MOST_QUEUED):
        if reason := jobs.enqueue(QUEUE.name, f"overlap/{subject}", _overlap, subject):
            service.give_up(backend, subject, reason)
