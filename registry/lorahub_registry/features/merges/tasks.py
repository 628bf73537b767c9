"""Merges as durable jobs: one workflow for each, which tries until the job is over.

A worker that was killed finds its workflow again when it starts; the files that were computed are there.
"""

import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from dbos import DBOS, SetWorkflowID

from lorahub_registry.features.merged.service import to_store
from lorahub_registry.features.merges import service
from lorahub_registry.infrastructure.backend import Backend

_backends: list[Backend] = []
"""The worker's own, put here before the engine starts: a workflow's arguments are stored, so they can't hold it."""
_stopping = threading.Event()
_under_way: list[Any] = []
_LOOK_SECONDS = 0.2
_MOST_ERRORS = 100


def use(backend: Backend) -> None:
    _backends[:] = [backend]


def stop() -> None:
    """Ends the child; its job is taken up by the next worker."""
    _stopping.set()


@DBOS.step(name="merges.try")
def _try(job_id: str) -> bool:
    """Whether the job is over."""
    backend = _backends[0]
    if not service.begin(backend, job_id):
        return True
    if _run_child(backend, [job_id]) and not _stopping.is_set():
        service.count_fault(backend, job_id)
    return service.is_over(backend, job_id)


@DBOS.workflow(name="merge")
def _merge(job_id: str) -> None:
    while not _try(job_id):
        DBOS.sleep(_LOOK_SECONDS)


@DBOS.step(name="merges.store")
def _store(merged_id: str, repository_id: int) -> int:
    return _run_child(_backends[0], [merged_id, str(repository_id)])


@DBOS.workflow(name="store-merged")
def _store_merged(merged_id: str, repository_id: int) -> int:
    return _store(merged_id, repository_id)


def start_wanted(backend: Backend) -> int:
    """Takes up the oldest merge, or a merged revision that is to be stored, unless one is under way here."""
    _under_way[:] = [handle for handle in _under_way if handle.get_status().status in ("PENDING", "ENQUEUED")]
    if _under_way:
        return 0
    for job_id in service.waiting(backend)[:1]:
        _start(f"merge-{job_id}", _merge, job_id)
        return 1
    for merged in to_store(backend)[:1]:
        _start(f"store-{merged.id}", _store_merged, merged.id, merged.repository_id)
        return 1
    return 0


def _start(name: str, workflow: Any, *arguments: Any) -> None:
    """Under its name, so that no two workers do; under the next one where it ended with a fault of ours."""
    for number in range(_MOST_ERRORS):
        known = DBOS.get_workflow_status(f"{name}-{number}")
        if known is None or known.status in ("PENDING", "ENQUEUED"):
            with SetWorkflowID(f"{name}-{number}"):
                _under_way.append(DBOS.start_workflow(workflow, *arguments))
            return


def _run_child(backend: Backend, arguments: list[str]) -> int:
    """Its exit status. It goes when the worker goes, so that no two work on one job."""
    settings = backend.settings
    environment = {**os.environ, "LORAHUB_REGISTRY_HOME": str(settings.registry_home)}
    command = [sys.executable, "-m", "lorahub_registry.features.merges.child", *arguments]
    waited = 0.0
    with subprocess.Popen(command, env=environment, preexec_fn=_die_with_parent) as child:  # noqa: PLW1509, S603
        while True:
            try:
                return child.wait(timeout=_LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                waited += _LOOK_SECONDS
                if _stopping.is_set() or waited > settings.merge_seconds:
                    child.kill()


def _die_with_parent() -> None:
    """PR_SET_PDEATHSIG, where there is one."""
    import ctypes
    import signal

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
