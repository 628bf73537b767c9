"""Statistics as durable jobs: one workflow for each adapter digest, so that a wish is fulfilled once."""

from dbos import DBOS, SetWorkflowID

from lorahub_registry.features.statistics import service
from lorahub_registry.infrastructure.backend import Backend

_backends: list[Backend] = []
"""The worker's own, put here before the engine starts: a workflow's arguments are stored, so they can't hold it."""


def use(backend: Backend) -> None:
    _backends[:] = [backend]


@DBOS.step(name="statistics.fulfil")
def _fulfil(digest: str) -> str:
    return service.fulfil(_backends[0], digest)


@DBOS.workflow(name="statistics")
def _statistics(digest: str) -> str:
    return _fulfil(digest)


def start_wanted(backend: Backend) -> int:
    """Starts a workflow for each wish that has none yet, and waits for them; how many there were."""
    handles = []
    for digest in service.wanted(backend):
        with SetWorkflowID(f"statistics-{digest}"):
            handles.append(DBOS.start_workflow(_statistics, digest))
    for handle in handles:
        handle.get_result()
    return len(handles)
