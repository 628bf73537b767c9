"""What workers have in hand: whatever a dead one had begun is taken over by any other; and the operator's view.

One that was only asleep does no harm when it wakes: the engine writes down no outcome of a workflow that has another
owner by now, and every step gives the same result twice.
"""

import logging
from dataclasses import dataclass
from typing import Any

from lorahub.errors import NotFound

from lorahub_registry.core.workers import service as workers
from lorahub_registry.core.workers.service import Seen
from lorahub_registry.features.merges import service as merges
from lorahub_registry.features.overlaps import service as overlaps
from lorahub_registry.features.statistics import service as statistics
from lorahub_registry.infrastructure import jobs
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database.bell import ring
from lorahub_registry.infrastructure.jobs.engine import Workflow

logger = logging.getLogger("lorahub")


def take_over(backend: Backend) -> list[str]:
    """Queues again whatever is begun under a name that no living worker bears; ids."""
    owners = jobs.owners()  # first: who begins something later has signed on before
    dead = sorted(owners - _living(backend))
    taken = jobs.take_over(dead) if dead else []
    if taken:
        logger.warning("taken over from %s: %s", ", ".join(dead), ", ".join(taken))
    return taken


def _living(backend: Backend) -> set[str]:
    """Names; those of dead ones are free from now on."""
    seen = workers.all_workers(backend)
    if dead := [one.worker for one in seen if not one.is_alive]:
        workers.forget(backend, dead)
    return {one.worker.name for one in seen if one.is_alive}


# --- the operator -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Overview:
    workers: list[Seen]
    jobs: list[Workflow]

    def as_json(self) -> dict[str, Any]:
        return {
            "workers": [
                {
                    "name": seen.worker.name,
                    "host": seen.worker.host,
                    "pid": seen.worker.pid,
                    "startedAt": seen.worker.started_at.isoformat(),
                    "heartbeatAge": round(seen.silent, 1),
                    "alive": seen.is_alive,
                }
                for seen in self.workers
            ],
            "jobs": [
                {
                    "id": job.id,
                    "name": job.name,
                    "status": job.status.lower(),
                    "worker": job.worker,
                    "starts": job.starts,
                    "createdAt": job.created_at.isoformat(),
                    "since": job.since.isoformat(),
                }
                for job in self.jobs
            ],
        }

    def __str__(self) -> str:
        lines = [
            f"{seen.worker.name:32} {seen.worker.host} pid {seen.worker.pid}   "
            f"{'alive' if seen.is_alive else 'dead'}, heartbeat {seen.silent:.1f} s ago, "
            f"since {seen.worker.started_at:%Y-%m-%d %H:%M}"
            for seen in self.workers
        ]
        lines += [] if any(seen.is_alive for seen in self.workers) else ["no worker is running"]
        lines += [
            f"{job.status.lower():10} {job.id}   {job.worker or '-'}   start {job.starts}, since {job.since:%H:%M:%S}"
            for job in self.jobs
        ]
        return "\n".join(lines)


def overview(backend: Backend) -> Overview:
    return Overview(workers.all_workers(backend), jobs.unfinished(backend))


def requeue(backend: Backend, job_id: str, *, by: str) -> str:
    """Lets a job that failed or hangs be tried anew; its id without the try. Raises `NotFound`.

    `job_id` is one of `overview`, or a merge's own.
    """
    kind, _, rest = job_id.partition("/")
    subject = rest.partition("/")[0] if rest else kind
    job = f"{kind}/{subject}" if rest else f"merge/{subject}"
    wishes = {"merge": merges.reopen, "statistics": statistics.want_again, "overlap": overlaps.want_again}
    is_restarted = jobs.restart(backend, job)  # first: a worker that hears of the wish finds what it may do again
    is_wanted = wishes.get(job.partition("/")[0])
    is_reopened = is_wanted(backend, subject, by=by) if is_wanted else False
    if not is_restarted and not is_reopened:
        raise NotFound(f"no job is called {job_id[:100]}", hint="lorahub admin jobs lists them")
    with backend.database.write() as session:
        ring(session)
    return job
