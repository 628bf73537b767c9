"""Background jobs: DBOS, embedded on SQLite or on the registry's PostgreSQL, by any number of workers.

A step may run twice, in two processes at once even: what it writes depends on its input alone.
"""

from lorahub_registry.infrastructure.jobs.engine import (
    MOST_WAITS,
    Queue,
    Workflow,
    backend,
    enqueue,
    enqueue_child,
    forget_ended,
    is_awake,
    launch,
    migrate,
    owners,
    pause_after,
    rest,
    restart,
    share,
    shut_down,
    step,
    take_over,
    unfinished,
    wait_for,
    wake,
    workflow,
)
from lorahub_registry.infrastructure.jobs.shift import HandedBack, shift

__all__ = [
    "MOST_WAITS",
    "HandedBack",
    "Queue",
    "Workflow",
    "backend",
    "enqueue",
    "enqueue_child",
    "forget_ended",
    "is_awake",
    "launch",
    "migrate",
    "owners",
    "pause_after",
    "rest",
    "restart",
    "share",
    "shift",
    "shut_down",
    "step",
    "take_over",
    "unfinished",
    "wait_for",
    "wake",
    "workflow",
]
