"""The worker: runs background jobs until it is told to stop, or whoever started it is gone.

`lorahub serve` starts one beside itself; `lorahub worker` is another, on this machine or on any that reaches the
database and the storage. Any number may run.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is imported: two threads are slower than one on small products

from lorahub.errors import Unavailable  # noqa: E402

from lorahub_registry.core.workers import service as workers  # noqa: E402
from lorahub_registry.core.workers.service import Badge, NameLost  # noqa: E402
from lorahub_registry.features.merges import tasks as merges  # noqa: E402
from lorahub_registry.features.mirrors import tasks as mirrors  # noqa: E402
from lorahub_registry.features.moves import tasks as moves  # noqa: E402
from lorahub_registry.features.overlaps import tasks as overlaps  # noqa: E402
from lorahub_registry.features.statistics import tasks as statistics  # noqa: E402
from lorahub_registry.features.webhooks import tasks as webhooks  # noqa: E402
from lorahub_registry.infrastructure import jobs, logs, tracing  # noqa: E402
from lorahub_registry.infrastructure.backend import Backend  # noqa: E402
from lorahub_registry.infrastructure.database.bell import Bell, Sound  # noqa: E402
from lorahub_registry.infrastructure.database.failures import explained  # noqa: E402
from lorahub_registry.infrastructure.database.migrate import Schema, pending  # noqa: E402
from lorahub_registry.operations.jobs.service import take_over  # noqa: E402
from lorahub_registry.operations.maintenance import tasks as maintenance  # noqa: E402
from lorahub_registry.operations.seals import service as seals  # noqa: E402
from lorahub_registry.settings.reading import read  # noqa: E402

logger = logging.getLogger("lorahub")

POLL_SECONDS = 1.0
REST_AFTER_SECONDS = 5.0
LOOK_SECONDS = 60.0
"""Between looks of a worker at rest for what nobody rings for: what is due, events without a seal, a newer schema."""
_MORE_SECONDS = 0.1
"""After a ring: who else rings in that time has its wish seen by the same look."""
_BEATS = 3
"""Heartbeats in the time after which a silent worker is dead."""

_LOOKS = (
    statistics.start_wanted,
    overlaps.start_wanted,
    merges.start_wanted,
    maintenance.start_due,
    mirrors.start_due,
    moves.start_wanted,
    webhooks.start_due,
    seals.seal,
)


class Outdated(Exception):
    """The database has the schema of a newer lorahub, which this one would misread."""


def run(backend: Backend, *, name: str | None, parent: int | None = None) -> None:
    """Until SIGTERM, SIGINT, or until the process `parent` is no longer ours; then the process ends.

    What is in hand gets `worker_drain_seconds` to come to its end; none where a registry started it beside itself.
    """
    stop = threading.Event()
    bell = Bell(backend.database, *Sound)

    def end(*_: object) -> None:
        stop.set()
        bell.wake()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    badge = _sign_on(backend, name, stop)
    if badge is None:
        return
    status = 0
    with tracing.exporting():
        try:
            _work(backend, badge, bell, stop, parent)
        except NameLost:
            logger.exception("this worker was silent for too long, and ends")
            status = 1
        except Outdated:
            logger.exception("this worker ends: a newer lorahub has migrated the database")
            status = 1
        jobs.shift.end(backend.settings.worker_drain_seconds if parent is None else 0)
        jobs.shut_down()
    workers.sign_off(backend, badge)
    backend.database.close()
    sys.stdout.flush()
    os._exit(status)  # threads that wait for other workers' files needn't be waited for


def _sign_on(backend: Backend, name: str | None, stop: threading.Event) -> Badge | None:
    """Waits for a database that is away. None where the worker is told to end before that."""
    own = [part.QUEUE for part in (statistics, overlaps, maintenance, mirrors, moves, webhooks)]
    queues = [*own, *merges.queues(backend.settings)]
    badge: Badge | None = None
    while not stop.is_set():
        try:
            with explained():
                badge = badge or workers.sign_on(backend, name)
                jobs.launch(backend, name=badge.worker.name, queues=queues)
                return badge
        except Unavailable:
            jobs.shut_down()
            stop.wait(POLL_SECONDS)
    return None


def _work(backend: Backend, badge: Badge, bell: Bell, stop: threading.Event, parent: int | None) -> None:
    """Heartbeats, and looks for what is wanted: each second while anything is under way, else when the bell rings."""
    pause = backend.settings.worker_lost_after.total_seconds() / _BEATS
    next_beat = next_look = 0.0
    heard: frozenset[Sound] = frozenset()
    while not stop.is_set() and (parent is None or os.getppid() == parent):
        at = time.monotonic()
        if at >= next_beat:
            next_beat = at + pause
            _try(workers.beat, backend, badge)
        if heard or jobs.is_awake() or at >= next_look:
            next_look = at + _look(backend, is_wished=Sound.WISH in heard)
        woke_nobody = heard & {Sound.WISH} if not jobs.is_awake() else frozenset()  # the database was away
        heard = bell.wait(min(pause, POLL_SECONDS))
        if heard:
            stop.wait(_MORE_SECONDS)
        heard |= woke_nobody


def _look(backend: Backend, *, is_wished: bool) -> float:
    """What is wanted is queued, which wakes the engine. What is under way anywhere keeps it awake, so that a worker
    which dies leaves nothing to those that rest. Seconds until the next look of one at rest.
    """
    _try(_refuse_outdated, backend)
    if is_wished:
        _try(jobs.wake)
    said = [_try(look, backend) for look in _LOOKS]
    if jobs.is_awake():
        _try(take_over, backend)
        _try(jobs.rest, REST_AFTER_SECONDS)
    return min([LOOK_SECONDS, *(seconds for seconds in said if isinstance(seconds, float))])


def _refuse_outdated(backend: Backend) -> None:
    if pending(backend.database)[0] is Schema.NEWER:
        raise Outdated


def _try(look: Callable[..., object], *arguments: object) -> object:
    """A database that is away for a while isn't the end of a worker. Raises `NameLost`, `Outdated`."""
    try:
        return look(*arguments)
    except (NameLost, Outdated):
        raise
    except Exception:
        logger.exception("%s.%s failed; it is tried again", look.__module__, look.__name__)
        return None


def main(home: str, parent: str) -> int:
    """The child of `lorahub serve`, whose metrics speak for both."""
    settings = read(Path(home))
    logs.configure(settings.log_format, settings.log_level)
    try:
        run(jobs.share(Backend.open(settings)), name=None, parent=int(parent))
    except Exception:
        logger.exception("this worker can't work")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
