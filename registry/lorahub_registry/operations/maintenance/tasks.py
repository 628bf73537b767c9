"""Garbage collection, scrubs and forgetting old jobs, each once in its interval, by one worker of all."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from dbos import DBOS

from lorahub_registry.infrastructure import jobs
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import now
from lorahub_registry.infrastructure.jobs import HandedBack, Queue
from lorahub_registry.operations.maintenance import service

logger = logging.getLogger("lorahub")

QUEUE = Queue("maintenance", at_once=1, in_all=1)
_KEPT = timedelta(days=7)
"""How long the engine remembers what is over, at least."""
_FORGOTTEN_EVERY = timedelta(days=1)
_EPOCH = datetime.fromtimestamp(0, UTC)
_asked: dict[str, int] = {}
"""The last interval that was asked for, by name: an engine at rest is woken once for each."""


@jobs.step("maintenance.collect-garbage")
def _collect() -> str:
    backend = jobs.backend()
    return str(service.collect_garbage(backend, grace=backend.settings.blob_grace))


@DBOS.workflow(name="collect-garbage")
def _collect_garbage() -> None:
    logger.info(_collect())


@jobs.step("maintenance.collect-abandoned")
def _collect_abandoned_some() -> str:
    return str(service.collect_abandoned(jobs.backend()))


@DBOS.workflow(name="collect-abandoned")
def _collect_abandoned() -> None:
    logger.info(_collect_abandoned_some())


@jobs.step("maintenance.scrub")
def _scrub_some() -> str:
    """What it has read is written down: the worker that goes on reads the rest. Damage is an error each time, until it
    is repaired.
    """
    backend = jobs.backend()
    report = service.scrub(backend, most_bytes=backend.settings.scrub_bytes, is_over=lambda: jobs.shift.is_over)
    if jobs.shift.is_over:
        raise HandedBack
    if report.damaged:
        logger.error("%d stored files are damaged: lorahub admin scrub names them", len(report.damaged))
    else:
        logger.info("%s", report)
    return str(report)


@DBOS.workflow(name="scrub")
def _scrub() -> None:
    _scrub_some()


@jobs.step("maintenance.forget-jobs")
def _forget_old() -> str:
    settings = jobs.backend().settings
    kept = max(_KEPT, 2 * settings.gc_interval, 2 * settings.scrub_interval)  # what was done in this interval is known
    return f"forgot {jobs.forget_ended(now() - kept)} jobs that were over"


@DBOS.workflow(name="forget-jobs")
def _forget_jobs() -> None:
    logger.info(_forget_old())


def start_due(backend: Backend) -> None:
    """One workflow for each interval since 1970: all workers name it alike, whichever is first queues it."""
    _start("collect-garbage", _collect_garbage, backend.settings.gc_interval)
    if backend.settings.gc_interval:
        _start("collect-abandoned", _collect_abandoned, backend.settings.patience)
    _start("scrub", _scrub, backend.settings.scrub_interval)
    _start("forget-jobs", _forget_jobs, _FORGOTTEN_EVERY)


def _start(name: str, workflow: Callable[[], Any], interval: timedelta) -> None:
    if not interval:
        return
    number = (now() - _EPOCH) // interval
    if jobs.is_awake() or _asked.get(name) != number:
        jobs.enqueue(QUEUE.name, f"{name}/{number}", workflow, once=True)
        _asked[name] = number
