"""`/livez`, `/readyz` and `/startupz`, for whoever starts, watches and balances this process."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from lorahub.protocol.messages import registry as messages
from lorahub.protocol.messages.message import as_json

from lorahub_registry.operations.probes.service import Health, Probed, Prober, health_of

router = APIRouter()


def the_prober(request: Request) -> Prober:
    prober: Prober = request.app.state.prober
    return prober


ProberDep = Annotated[Prober, Depends(the_prober)]


@router.get("/livez")
async def livez() -> messages.Alive:
    """The process answers; says nothing about what it depends on."""
    return messages.Alive("ok")


@router.get("/readyz", response_model=messages.Health)
def readyz(request: Request, prober: ProberDep) -> JSONResponse:
    """503 while something it can't do without fails, and from the moment at which it is told to stop; 200 with the
    status `degraded` while requests are answered and something else is missing, such as a worker, or the storage is
    late.
    """
    if request.app.state.is_stopping:
        return _answered(messages.Health("stopping", {}), 503)
    return _answer(prober.probe(), request)


@router.get("/startupz", response_model=messages.Health)
def startupz(request: Request, prober: ProberDep) -> JSONResponse:
    """As `/readyz` until it was ready once; 200 ever after."""
    if request.app.state.has_been_ready:
        return _answered(messages.Health("ok", {}))
    return _answer(prober.probe(), request)


def _answer(found: list[Probed], request: Request) -> JSONResponse:
    health = health_of(found)
    request.app.state.has_been_ready |= health is not Health.UNAVAILABLE
    checks = {
        probed.name: messages.ProbedPart(probed.fault is None, probed.fault, probed.milliseconds) for probed in found
    }
    return _answered(messages.Health(health, checks), 503 if health is Health.UNAVAILABLE else 200)


def _answered(health: messages.Health, status: int = 200) -> JSONResponse:
    return JSONResponse(as_json(health), status_code=status)
