"""The one DBOS of a worker process, and what an operator may do to its jobs from outside.

It asks the database ninety times in a second, whether there is work or not. So it runs while anything is under way
anywhere, and rests until somebody wants something (docs/decisions/0010).
"""

import functools
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from dbos import DBOS, DBOSClient, DBOSConfig, SetWorkflowID, WorkflowStatus
from lorahub.errors import Unavailable
from opentelemetry import trace

from lorahub_registry.infrastructure.backend import Backend, limits_of
from lorahub_registry.infrastructure.database import Database
from lorahub_registry.infrastructure.database.failures import explained
from lorahub_registry.infrastructure.database.older_sqlite import teach_milliseconds
from lorahub_registry.infrastructure.jobs.shift import shift
from lorahub_registry.settings import Settings

_TRACER = trace.get_tracer("lorahub")  # of spans that go nowhere, unless somebody exports them
VERSION = "3"
"""The version of the workflows: a new one whenever one is added (a worker keeps what it doesn't know) or its steps
change. What is wanted is in our own tables, so that workers of the new version start it under new ids, and go on from
the last finished file. See docs/decisions/0008.
"""
MOST_FAULTS = 3
"""Times in a row that a workflow may end with a fault of ours."""
MOST_WAITS = 100
"""Times that something else, a database or a storage that is away, may be waited for."""
_LONGEST_PAUSE_SECONDS = 30.0
_LIVE = ("ENQUEUED", "PENDING", "DELAYED")
_FAULTY = ("ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
_OVER = ("SUCCESS", "CANCELLED", *_FAULTY)
_POLL_SECONDS = 0.4
_LISTEN_SECONDS = 0.2
"""Between looks of two threads of the engine's for messages to workflows, which ours don't send; they sleep for so long
when it is stopped.
"""
_LEAST_CONNECTIONS = 4
_MOST_STARTS = 10
_MOST_NUMBERS = 50
_MOST_LISTED = 500


P = ParamSpec("P")
R = TypeVar("R")

teach_milliseconds()


@dataclass(frozen=True, slots=True)
class Queue:
    name: str
    at_once: int
    """Workflows that one worker runs at once."""
    in_all: int | None = None
    """Workflows that all workers together run at once."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow that is not over, or that ended with a fault."""

    id: str
    """`merge/<job>/<try>`, and `merge/<job>/<try>/<file>` for a part of it."""
    name: str
    status: str
    worker: str | None
    starts: int
    created_at: datetime
    since: datetime


@dataclass(slots=True)
class _Engine:
    """How this process starts its own, and how it stands."""

    backend: Backend
    """Here and not among a workflow's arguments, which are stored."""
    name: str
    queues: Sequence[Queue]
    is_migrated: bool = False
    is_awake: bool = False
    live_at: float = 0.0
    """When anything was last seen under way."""


_engines: list[_Engine] = []


def migrate(backend: Backend) -> None:
    """Makes the engine's own tables, or brings them to its version. Two at once wait for each other."""
    DBOS.migrate(_url(backend.settings))


def launch(backend: Backend, *, name: str, queues: Sequence[Queue]) -> None:
    """Takes up again what an earlier worker of this name left. `name` is this worker's alone."""
    _engines[:] = [_Engine(backend, name, queues)]
    wake()


def backend() -> Backend:
    """What this worker works with. To be asked inside a step."""
    return _engines[0].backend


def is_awake() -> bool:
    return _engines[0].is_awake


def wake() -> None:
    """Goes on from `rest`; nothing where it is awake."""
    engine = _engines[0]
    if engine.is_awake:
        return
    config = DBOSConfig(
        name="lorahub",
        system_database_url=_url(engine.backend.settings),
        sys_db_pool_size=_connections(engine.backend.settings) - 1,  # one more listens
        executor_id=engine.name,
        application_version=VERSION,
        notification_listener_polling_interval_sec=_LISTEN_SECONDS,
        notification_coalesce_sec=_LISTEN_SECONDS,
        run_migrations=not engine.is_migrated,
        log_level="ERROR",
        enable_otlp=False,
    )
    DBOS(config=config)
    try:
        DBOS.launch()
        for queue in engine.queues:
            DBOS.register_queue(
                queue.name,
                worker_concurrency=queue.at_once,
                global_concurrency=queue.in_all,
                polling_interval_sec=_POLL_SECONDS,
                on_conflict="always_update",
            )
    except BaseException:
        DBOS.destroy()
        raise
    engine.is_migrated = engine.is_awake = True
    engine.live_at = time.monotonic()


def rest(after: float) -> None:
    """Where nothing was under way for `after` seconds, with any worker. What this one takes from a queue in the moment
    of stopping is begun anew.
    """
    engine = _engines[0]
    if DBOS.list_workflows(**_under_way()):
        engine.live_at = time.monotonic()
    elif time.monotonic() - engine.live_at >= after:
        shut_down()
        with _client(engine.backend) as client:
            is_over = client is None or not client.list_workflows(**_under_way())
        if not is_over:
            wake()


def _under_way() -> dict[str, Any]:
    """What to list of all workers' workflows."""
    return {"status": list(_LIVE), "app_version": VERSION, "load_input": False, "load_output": False, "limit": 1}


def shut_down() -> None:
    DBOS.destroy()
    for engine in _engines:
        engine.is_awake = False


def share(backend: Backend) -> Backend:
    """The backend of a worker, whose connections to PostgreSQL and the engine's are together as many as one process may
    hold; or `_LEAST_CONNECTIONS` of each.
    """
    if backend.database.is_sqlite:
        return backend
    backend.database.close()
    settings = backend.settings
    own = max(_LEAST_CONNECTIONS, settings.database_connections - _connections(settings))
    return replace(backend, database=Database(backend.database.url, replace(limits_of(settings), connections=own)))


def _connections(settings: Settings) -> int:
    """The engine's."""
    return max(_LEAST_CONNECTIONS, settings.database_connections // 4)


def step(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A step that a worker which is told to end lets come to its end, and doesn't begin any more."""

    def decorate(work: Callable[P, R]) -> Callable[P, R]:
        @DBOS.step(name=name)
        @functools.wraps(work)
        def run(*arguments: P.args, **options: P.kwargs) -> R:
            with shift.work(), _TRACER.start_as_current_span(name):
                return work(*arguments, **options)

        return run

    return decorate


def workflow(name: str, work: Callable[[Backend, str], str]) -> Callable[[str], str]:
    """One step: `work` on a subject, by this worker's backend. A worker that dies in it is one of its few starts; a
    database or a storage that is away is waited for, within bounds.
    """

    @step(f"{name}.fulfil")
    def fulfil(subject: str) -> str | None:
        try:
            with explained():
                return work(backend(), subject)
        except Unavailable:
            return None

    @DBOS.workflow(name=name, max_recovery_attempts=_MOST_STARTS)
    def run(subject: str) -> str:
        for waits in range(MOST_WAITS):
            outcome = fulfil(subject)
            if outcome is not None:
                return outcome
            DBOS.sleep(pause_after(waits))
        raise Unavailable(f"the database or the storage was away {MOST_WAITS} times")

    return run


def pause_after(tries: int) -> float:
    """Seconds, longer each time."""
    return float(min(_LONGEST_PAUSE_SECONDS, 0.5 * 2**tries))


# --- starting ---------------------------------------------------------------------------------------------------------


def enqueue(queue: str, name: str, workflow: Callable[..., Any], *arguments: Any, once: bool = False) -> str | None:
    """Under this name, whoever asks and how often; again where it is over, unless it succeeded and is wanted `once`.

    None, or why it isn't tried any more: the last of three faults in a row. Wakes the engine.
    """
    wake()
    known = {status.workflow_id: status.status for status in _tries(name)}
    faults = 0
    for number in range(_MOST_NUMBERS):
        status = known.get(_id(name, number))
        if status in _LIVE or (once and status == "SUCCESS"):
            return None
        if status is None and faults < MOST_FAULTS:
            with SetWorkflowID(_id(name, number)):
                DBOS.enqueue_workflow(queue, workflow, *arguments)
            return None
        if status is None:
            return _reason(_id(name, number - 1))
        faults = faults + 1 if status in _FAULTY else 0
    return _reason(_id(name, _MOST_NUMBERS - 1))


def enqueue_child(queue: str, number: int, workflow: Callable[..., Any], *arguments: Any) -> str:
    """A part of the workflow that calls, found again when that is replayed; its id."""
    workflow_id = f"{DBOS.workflow_id}/{number}"
    with SetWorkflowID(workflow_id):
        DBOS.enqueue_workflow(queue, workflow, *arguments)
    return workflow_id


def wait_for(workflow_ids: Sequence[str]) -> list[str]:
    """Until all are over: why those that came to no result didn't. Inside a step; it is handed back, not waited for."""
    while True:
        shift.go_on()
        found = DBOS.list_workflows(workflow_ids=list(workflow_ids), load_input=False, load_output=False)
        if not any(status.status in _LIVE for status in found):
            return [_reason(status.workflow_id) for status in found if status.status != "SUCCESS"]
        time.sleep(_POLL_SECONDS)


def _tries(name: str) -> list[WorkflowStatus]:
    ids = [_id(name, number) for number in range(_MOST_NUMBERS)]
    return DBOS.list_workflows(workflow_ids=ids, load_input=False, load_output=False)


def _id(name: str, number: int) -> str:
    return f"{VERSION}/{name}/{number}"


def _reason(workflow_id: str) -> str:
    status = DBOS.get_workflow_status(workflow_id)
    if status is not None and status.status == "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
        return f"{status.recovery_attempts} workers ended while they worked on it"
    error = None if status is None else status.error
    return f"{type(error).__name__}: {error}" if error else "it was stopped"


# --- other workers' ---------------------------------------------------------------------------------------------------


def owners() -> set[str]:
    """Names of the workers that have begun something which is not over."""
    begun = DBOS.list_workflows(status="PENDING", app_version=VERSION, load_input=False, load_output=False)
    return {status.executor_id for status in begun if status.executor_id}


def take_over(dead: Sequence[str]) -> list[str]:
    """What these workers had begun is queued again; ids. Its UPDATE names the dead one, so that of two who do it one
    does, and it gives the workflow a new owner, so that a worker which wasn't dead can't write its outcome any more.
    """
    handles = DBOS._recover_pending_workflows(list(dead))  # noqa: SLF001 (handing over isn't in its public part)
    return [_shown(handle.get_workflow_id()) for handle in handles]


def forget_ended(before: datetime) -> int:
    """Deletes what was over by then, and what was begun by then under another version, which nobody ends any more; how
    many. Inside a step; it is handed back, not waited for.
    """
    count = 0
    while ids := _ended(before) or _stranded(before):
        shift.go_on()
        DBOS.delete_workflows(ids, delete_children=True)
        count += len(ids)
    return count


def _ended(before: datetime) -> list[str]:
    found = DBOS.list_workflows(
        status=list(_OVER),
        completed_before=before.isoformat(),
        has_parent=False,
        load_input=False,
        load_output=False,
        limit=_MOST_LISTED,
    )
    return [status.workflow_id for status in found]


def _stranded(before: datetime) -> list[str]:
    found = DBOS.list_workflows(
        status=list(_LIVE), end_time=before.isoformat(), load_input=False, load_output=False, limit=_MOST_LISTED
    )
    return [status.workflow_id for status in found if status.app_version != VERSION]


# --- from outside -----------------------------------------------------------------------------------------------------


def unfinished(backend: Backend) -> list[Workflow]:
    """Oldest first."""
    with _client(backend) as client:
        if client is None:
            return []
        found = client.list_workflows(
            status=[*_LIVE, *_FAULTY], app_version=VERSION, load_input=False, load_output=False, limit=_MOST_LISTED
        )
    return [_workflow(status) for status in found]


def restart(backend: Backend, job: str) -> int:
    """Queues again what hangs and forgets what is over, so that it may be tried anew; gives the number of both.

    `job` is an id without its try.
    """
    with _client(backend) as client:
        if client is None:
            return 0
        prefix = f"{VERSION}/{job}/"
        found = client.list_workflows(workflow_id_prefix=prefix, load_input=False, load_output=False)
        stuck = [status.workflow_id for status in found if status.status == "PENDING"]
        ended = [status.workflow_id for status in found if status.status not in _LIVE and not status.parent_workflow_id]
        for workflow_id in stuck:
            client.resume_workflow(workflow_id)
        client.delete_workflows(ended, delete_children=True)
    return len(stuck) + len(ended)


def _workflow(status: WorkflowStatus) -> Workflow:
    since = status.dequeued_at or status.updated_at or status.created_at
    return Workflow(
        id=_shown(status.workflow_id),
        name=status.name,
        status=status.status,
        worker=status.executor_id if status.status == "PENDING" else None,
        starts=status.recovery_attempts or 0,
        created_at=_time(status.created_at),
        since=_time(since),
    )


def _time(milliseconds: int | None) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds or 0)


def _shown(workflow_id: str) -> str:
    return workflow_id.removeprefix(f"{VERSION}/")


@contextmanager
def _client(backend: Backend) -> Iterator[DBOSClient | None]:
    """None where no worker has ever run."""
    if not _has_run(backend):
        yield None
        return
    client = DBOSClient(system_database_url=_url(backend.settings), application_name="lorahub")
    try:
        yield client
    finally:
        client.destroy()


def _has_run(backend: Backend) -> bool:
    if backend.database.is_sqlite:
        return _file(backend.settings.registry_home).exists()
    return backend.database.has_table("workflow_status", schema="dbos")


def _url(settings: Settings) -> str:
    return settings.database_url or _embedded(settings.registry_home)


def _embedded(home: Path) -> str:
    """A file of its own: its writers would hold the catalog's lock. DBOS doesn't set WAL, which is twice as fast."""
    with sqlite3.connect(_file(home), timeout=30) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    return f"sqlite:///{_file(home)}"


def _file(home: Path) -> Path:
    return home / "jobs.sqlite"
