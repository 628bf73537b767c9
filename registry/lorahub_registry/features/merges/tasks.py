"""Merges as durable jobs: a workflow for each, and one for each of its files, wherever there is a worker.

A file is computed, and the result published, in a child process with limits. The row of the job is the truth: what
finds it over ends by itself, so that cancelling stops everything.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from dbos import DBOS

from lorahub_registry.features.merged import service as merged
from lorahub_registry.features.merges import service
from lorahub_registry.infrastructure import jobs
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.jobs import HandedBack, Queue
from lorahub_registry.settings import Settings

MOST_FAULTS = 3
"""Processes of one file that may die before the job has failed."""
MOST_PUBLISHING_FAULTS = 20
"""More: what died while it was being published may be published."""
MOST_STARTS = 50
"""Workers that may end, one after the other, while they have one file in hand."""
_GIVES_WAY = 10
"""Niceness of a process that computes: on one machine, requests go before merges. One that publishes holds the
database's lock, and others wait for it.
"""
_LOOK_SECONDS = 0.2
_ASK_SECONDS = 1.0
_MOST_QUEUED = 16
_MERGES, _FILES = "merges", "merge-files"


def queues(settings: Settings) -> list[Queue]:
    """A merge only waits for its files; those are the work."""
    return [Queue(_MERGES, at_once=_MOST_QUEUED), Queue(_FILES, at_once=settings.merge_files_at_once)]


def start_wanted(backend: Backend) -> None:
    """Queues the oldest merges, and merged revisions that are to be stored."""
    for job_id in service.waiting(backend, limit=_MOST_QUEUED):
        if reason := jobs.enqueue(_MERGES, f"merge/{job_id}", _merge, job_id):
            service.fail(backend, job_id, reason)
    for one in merged.to_store(backend):
        if reason := jobs.enqueue(_MERGES, f"store/{one.id}", _store_merged, one.id, one.repository_id):
            merged.put_off_storing(backend, one.id, reason)


# --- a merge ----------------------------------------------------------------------------------------------------------


@DBOS.workflow(name="merge")
def _merge(job_id: str) -> None:
    parts = [
        jobs.enqueue_child(_FILES, number, _merge_file, job_id, path) for number, path in enumerate(_begin(job_id))
    ]
    for fault in _wait_for(parts):
        _give_up(job_id, fault)
    if reason := _persist(lambda: _publish(job_id), most_faults=MOST_PUBLISHING_FAULTS):
        _give_up(job_id, f"publishing the result: {reason}")


@DBOS.workflow(name="merge-file", max_recovery_attempts=MOST_STARTS)
def _merge_file(job_id: str, path: str) -> None:
    if reason := _persist(lambda: _compute(job_id, path), most_faults=MOST_FAULTS):
        _give_up(job_id, f"{path}: {reason}")


@jobs.step("merges.begin")
def _begin(job_id: str) -> list[str]:
    return service.begin(jobs.backend(), job_id)


@DBOS.step(name="merges.wait")
def _wait_for(parts: list[str]) -> list[str]:
    return jobs.wait_for(parts)


@jobs.step("merges.compute")
def _compute(job_id: str, path: str) -> tuple[str, str]:
    return _in_child(job_id, "file", job_id, path)


@jobs.step("merges.publish")
def _publish(job_id: str) -> tuple[str, str]:
    return _in_child(job_id, "publish", job_id)


@jobs.step("merges.give-up")
def _give_up(job_id: str, reason: str) -> None:
    service.fail(jobs.backend(), job_id, reason)


def _in_child(job_id: str, *arguments: str) -> tuple[str, str]:
    backend = jobs.backend()
    end = _run_child(backend, [*arguments], is_unwanted=lambda: service.is_over(backend, job_id))
    if end[0] == "died":
        service.count_fault(backend, job_id)
    return ("over", "") if service.is_over(backend, job_id) else end


# --- a merged revision that is to be stored ---------------------------------------------------------------------------


@DBOS.workflow(name="store-merged")
def _store_merged(merged_id: str, repository_id: int) -> None:
    parts = [
        jobs.enqueue_child(_FILES, number, _store_file, merged_id, repository_id, path)
        for number, path in enumerate(_files_to_store(merged_id, repository_id))
    ]
    _settle_stored(merged_id, _wait_for(parts))


@DBOS.workflow(name="store-merged-file", max_recovery_attempts=MOST_STARTS)
def _store_file(merged_id: str, repository_id: int, path: str) -> None:
    if reason := _persist(lambda: _store(merged_id, repository_id, path), most_faults=MOST_FAULTS):
        raise RuntimeError(f"{path}: {reason}")


@jobs.step("merged.files")
def _files_to_store(merged_id: str, repository_id: int) -> list[str]:
    return merged.files_to_store(jobs.backend(), merged_id, repository_id)


@jobs.step("merged.store")
def _store(merged_id: str, repository_id: int, path: str) -> tuple[str, str]:
    return _run_child(jobs.backend(), ["store", merged_id, str(repository_id), path])


@jobs.step("merged.settle")
def _settle_stored(merged_id: str, faults: list[str]) -> None:
    if faults:
        merged.put_off_storing(jobs.backend(), merged_id, faults[0])
    else:
        merged.settle_stored(jobs.backend(), merged_id)


# --- the child --------------------------------------------------------------------------------------------------------


def _persist(attempt: Callable[[], tuple[str, str]], *, most_faults: int) -> str:
    """Tries until it is over: "". Or why it was given up."""
    faults = waits = 0
    while True:
        end, reason = attempt()
        if end == "over":
            return ""
        faults += end == "died"
        waits += end == "waits"
        if faults == most_faults or waits == jobs.MOST_WAITS:
            return f"tried {faults + waits} times; the last one {reason}"
        DBOS.sleep(jobs.pause_after(faults + waits))


def _run_child(
    backend: Backend, arguments: list[str], is_unwanted: Callable[[], bool] = lambda: False
) -> tuple[str, str]:
    """How it ended, over, died or waits, and why. It goes when the worker goes. Raises `HandedBack`."""
    settings = backend.settings
    environment = {**os.environ, "LORAHUB_REGISTRY_HOME": str(settings.registry_home)}
    command = [sys.executable, "-m", "lorahub_registry.features.merges.child", *arguments]
    began = asked = time.monotonic()
    is_late = False
    with subprocess.Popen(  # noqa: S603 (our own program, our own arguments)
        command,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 (it calls nothing that takes a lock)
    ) as child:
        if arguments[0] != "publish":
            os.setpriority(os.PRIO_PROCESS, child.pid, _GIVES_WAY)
        while child.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=_LOOK_SECONDS)
                break
            at = time.monotonic()
            is_late = at - began > settings.merge_seconds
            if jobs.shift.is_over or is_late:
                child.kill()
            elif at - asked > _ASK_SECONDS:
                asked = at
                if is_unwanted():
                    child.kill()
        said = child.stdout.read() if child.stdout else ""
    if child.returncode == 0:
        return "over", ""
    if jobs.shift.is_over:
        raise HandedBack
    if is_late:
        return "died", f"took more than {settings.merge_seconds} seconds"
    if child.returncode < 0:
        return "died", f"was killed by signal {-child.returncode}: out of memory, or a fault"
    return (
        "waits" if child.returncode == service.COME_AGAIN else "died",
        f"ended with {said.strip()[-1000:] or 'no word'}",
    )


def _die_with_parent() -> None:
    """PR_SET_PDEATHSIG, where there is one."""
    import ctypes
    import signal

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
