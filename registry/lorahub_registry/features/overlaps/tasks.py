"""Overlaps as durable jobs: one workflow for each pair of digests, in a queue of their own, so that no number of them
keeps the statistics of a push waiting.
"""

from lorahub_registry.features.overlaps import service
from lorahub_registry.infrastructure import jobs
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.jobs import Queue

QUEUE = Queue("overlaps", at_once=1)
_MOST_QUEUED = 16

_overlap = jobs.workflow("overlap", service.fulfil)


def start_wanted(backend: Backend) -> None:
    """Queues the oldest wishes."""
    for subject in service.wanted(backend, limit=_MOST_QUEUED):
        if reason := jobs.enqueue(QUEUE.name, f"overlap/{subject}", _overlap, subject):
            service.give_up(backend, subject, reason)
