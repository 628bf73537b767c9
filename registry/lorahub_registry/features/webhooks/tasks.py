"""Messages of webhooks as durable jobs: one for each lane that has something to say."""

from lorahub_registry.features.webhooks import service
from lorahub_registry.infrastructure import jobs
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import now
from lorahub_registry.infrastructure.jobs import Queue

QUEUE = Queue("webhooks", at_once=8)
_MOST_QUEUED = 32


def _deliver_lane(backend: Backend, subject: str) -> str:
    return service.deliver(backend, subject, go_on=jobs.shift.go_on)


_delivery = jobs.workflow("delivery", _deliver_lane)


def start_due(backend: Backend) -> float | None:
    """All workers name a try alike, by its message: whichever is first queues it. Seconds until the next one is due,
    where none is now and there is one.
    """
    service.spread(backend)
    heads = service.heads(backend, limit=_MOST_QUEUED)
    for head in heads:
        if (left := (head.next_try_at - now()).total_seconds()) > 0:
            return left
        subject = f"{head.id}-{head.attempts}"
        if reason := jobs.enqueue(QUEUE.name, f"delivery/{subject}", _delivery, subject):
            service.give_up(backend, head.id, reason)
    return None
