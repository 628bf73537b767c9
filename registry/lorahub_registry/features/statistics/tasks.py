"""Statistics as durable jobs: one workflow for each adapter digest, so that a wish is fulfilled once."""

from lorahub_registry.features.statistics import service
from lorahub_registry.infrastructure import jobs
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.jobs import Queue

QUEUE = Queue("statistics", at_once=1)
_MOST_QUEUED = 16

_statistics = jobs.workflow("statistics", service.fulfil)


def start_wanted(backend: Backend) -> None:
    """Queues the oldest wishes."""
    for digest in service.wanted(backend, limit=_MOST_QUEUED):
        if reason := jobs.enqueue(QUEUE.name, f"statistics/{digest}", _statistics, digest):
            service.give_up(backend, digest, reason)
