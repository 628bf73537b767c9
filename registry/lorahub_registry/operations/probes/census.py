"""How much of everything there is, for the metrics. Asked of the database at most once a minute, whoever scrapes."""

import logging
import time
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.operations.probes.asking import Asking, NotInTime
from lorahub_registry.operations.probes.service import PROBE_SECONDS, Census, answers, count

KEPT_SECONDS = 60.0
COUNT_SECONDS = 5.0
"""Prometheus waits ten."""

logger = logging.getLogger("lorahub")


class CensusCollector(Collector):
    """Gauges of the registry as a whole, the same from each of its processes, and of this one's database pool. While
    the database is away, that is what they say; nothing that was counted before.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._census: Census | None = None
        self._counted_at = 0.0
        self._answering = Asking("database", lambda: answers(backend))
        self._counting = Asking("census", self._count)

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing is asked when the collector is registered."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield self._pool()
        is_up = self._is_up()
        yield GaugeMetricFamily("lorahub_database_up", "Whether the database answers within a second", int(is_up))
        census = self._current() if is_up else None
        if census is not None:
            yield from self._counts(census)
            yield from self._jobs(census)

    def _is_up(self) -> bool:
        try:
            self._answering.ask().result(PROBE_SECONDS)
        except Exception:  # noqa: BLE001 (whatever it is, it doesn't answer)
            return False
        return True

    def _current(self) -> Census | None:
        """The one before, where counting takes long: the next who asks gets the new one. None where it fails."""
        if self._census is None or time.monotonic() - self._counted_at > KEPT_SECONDS:
            try:
                self._counting.ask().result(COUNT_SECONDS)
            except NotInTime:
                pass
            except Exception:
                logger.exception("what there is can't be counted")
                return None
        return self._census

    def _count(self) -> None:
        self._census, self._counted_at = count(self._backend), time.monotonic()

    @staticmethod
    def _counts(census: Census) -> Iterator[GaugeMetricFamily]:
        for name, help_, value in (
            ("lorahub_accounts", "Users and organisations", census.accounts),
            ("lorahub_repositories", "Repositories", census.repositories),
            ("lorahub_blobs", "Distinct files stored", census.blobs),
            ("lorahub_blob_bytes", "Bytes of distinct files stored", census.blob_bytes),
            (
                "lorahub_damaged_blobs",
                "Files whose stored bytes are not those that were published",
                census.damaged_blobs,
            ),
            ("lorahub_workers", "Workers with a fresh heartbeat", census.workers),
            ("lorahub_open_uploads", "Uploads whose bytes have yet to come", census.open_uploads),
            ("lorahub_open_upload_bytes", "Bytes that open uploads announced", census.open_upload_bytes),
        ):
            yield GaugeMetricFamily(name, help_, value=value)

    @staticmethod
    def _jobs(census: Census) -> Iterator[GaugeMetricFamily]:
        jobs = GaugeMetricFamily("lorahub_jobs", "Background jobs by state", labels=["kind", "state"])
        ages = GaugeMetricFamily(
            "lorahub_oldest_job_seconds", "Age of the oldest job that is not over", labels=["kind"]
        )
        for found in census.jobs:
            jobs.add_metric([found.kind, found.state], found.count)
        for kind, seconds in census.oldest_job_seconds.items():
            ages.add_metric([kind], seconds)
        yield jobs
        yield ages

    def _pool(self) -> GaugeMetricFamily:
        connections = GaugeMetricFamily("lorahub_database_connections", "Of this process, by use", labels=["use"])
        for use, value in self._backend.database.connections().items():
            connections.add_metric([use], value)
        return connections
