"""Bases that moved, as durable jobs: one workflow for each name and revision that was registered."""

from lorahub_registry.features.moves import service
from lorahub_registry.infrastructure import jobs
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.jobs import Queue

QUEUE = Queue("moves", at_once=1)
_MOST_QUEUED = 16

_moved = jobs.workflow("moved-base", service.fulfil)


def start_wanted(backend: Backend) -> None:
    """Queues the oldest wishes."""
    for name_id in service.wanted(backend, limit=_MOST_QUEUED):
        if reason := jobs.enqueue(QUEUE.name, f"moved-base/{name_id}", _moved, str(name_id)):
            service.give_up(backend, name_id, reason)
