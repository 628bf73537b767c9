"""create_app: the only place that knows every part."""

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from lorahub.errors import RepositoryNotFound
from lorahub.protocol.messages.registry import Server

from lorahub_registry import pages
from lorahub_registry.core.accounts import routes as accounts
from lorahub_registry.core.accounts.caller import Anybody
from lorahub_registry.core.blobs import routes as blobs
from lorahub_registry.core.quotas import routes as quotas
from lorahub_registry.core.repositories import routes as repositories
from lorahub_registry.features.bases import routes as bases
from lorahub_registry.features.bundles import routes as bundles
from lorahub_registry.features.catalog import routes as catalog
from lorahub_registry.features.catalog.routes import ANY_METHOD
from lorahub_registry.features.checks import routes as checks
from lorahub_registry.features.downloads import routes as downloads
from lorahub_registry.features.events import routes as events
from lorahub_registry.features.events.waiting import Waiters
from lorahub_registry.features.merges import routes as merges
from lorahub_registry.features.mirrors import routes as mirrors
from lorahub_registry.features.overlaps import routes as overlaps
from lorahub_registry.features.publishers import routes as publishers
from lorahub_registry.features.publishing import routes as publishing
from lorahub_registry.features.references import routes as references
from lorahub_registry.features.retention import routes as retention
from lorahub_registry.features.signatures import routes as signatures
from lorahub_registry.features.statistics import routes as statistics
from lorahub_registry.features.uploads import routes as uploads
from lorahub_registry.features.webhooks import routes as webhooks
from lorahub_registry.infrastructure import failpoints, threads
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import now
from lorahub_registry.infrastructure.web import asset_routes, documents, problems
from lorahub_registry.infrastructure.web.admission import Admission, Crowd
from lorahub_registry.infrastructure.web.description import complete, describe
from lorahub_registry.infrastructure.web.hosts import Hosts
from lorahub_registry.infrastructure.web.observing import Observing
from lorahub_registry.infrastructure.web.rates import Rates
from lorahub_registry.infrastructure.web.raw_path import RawPath, decode
from lorahub_registry.infrastructure.web.request_id import RequestId
from lorahub_registry.infrastructure.web.tracing import telemetry
from lorahub_registry.operations.probes import routes as probes
from lorahub_registry.operations.probes.service import Prober

_NAMED = "{namespace}/{name}"


def create_app(backend: Backend, host: str | None = None) -> FastAPI:
    """The registry over an open backend whose database is migrated. Closes the database when it stops.

    `host` is what it is told to listen on, where that is known.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        threads.set_up(storage_wait_seconds=backend.settings.storage_wait_seconds)
        yield
        app.state.prober.close()
        backend.database.close()

    app = FastAPI(
        title="lorahub",
        version=version("lorahub-registry"),
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=telemetry(),
    )
    app.state.backend = backend
    app.state.rates = Rates(backend.settings, backend.database)
    app.state.prober = Prober(backend)
    app.state.waiters = Waiters(backend.database, backend.settings.event_readers)
    app.state.is_stopping = app.state.has_been_ready = False
    app.openapi = _described_once(app)  # type: ignore[method-assign]  # FastAPI's own way to replace it
    failpoints.arm(backend.settings.failpoint)
    problems.install(app)
    _add_own_routes(app)
    complete(app.router)
    # order matters where a fixed first element could also be a namespace
    for feature in (
        probes,
        accounts,
        quotas,
        blobs,
        bundles,
        checks,  # a base without a namespace has adapters too: before `bases/{namespace}/{name}`
        bases,
        statistics,
        overlaps,
        merges,
        mirrors,
        events,
        webhooks,
        publishers,
        uploads,
        repositories,
        references,
        retention,
        signatures,
        publishing,
        catalog,
        downloads,
        asset_routes,
        pages,
        documents,
    ):
        app.include_router(complete(feature.router))
    _add_names_without_namespace(app)
    app.add_middleware(RawPath)
    app.add_middleware(Admission, hosts=Hosts(backend.settings, host), crowd=Crowd.of(backend.settings))
    app.add_middleware(Observing)
    app.add_middleware(RequestId)
    return app


def _add_names_without_namespace(app: FastAPI) -> None:
    """`gpt2` is a repository of the Hub's and none here: at every address at which programs name one, whatever they
    want of it. Bases have such names, and addresses of their own.
    """

    def nobody_is_called(single: str) -> None:
        raise RepositoryNotFound(f"Repository not found: {decode(single)[:200]!a}; names here are namespace/name")

    for path in sorted({route.path or "" for route in iter_route_contexts(app.routes)}):
        if _NAMED in path and "/bases/" not in path:
            app.add_api_route(
                path.replace(_NAMED, "{single}"),
                nobody_is_called,
                methods=ANY_METHOD,
                include_in_schema=False,
                dependencies=[Anybody],
            )


def _described_once(app: FastAPI) -> Callable[[], dict[str, Any]]:
    return functools.cache(lambda: describe(app))


def _add_own_routes(app: FastAPI) -> None:
    @app.get("/api/lorahub/v1/server", dependencies=[Anybody])
    def server() -> Server:
        """Who answers, and what time it is there."""
        return Server("lorahub", app.version, now())
