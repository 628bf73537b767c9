"""How much of everything there is, for the metrics. Asked of the database at most once a minute, whoever scrapes."""

import threading
import time
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lorahub_registry.features.operations.service import Census, count
from lorahub_registry.infrastructure.backend import Backend

KEPT_SECONDS = 60.0


class CensusCollector(Collector):
    """Gauges of the registry as a whole, the same from each of its processes, and of this one's database pool."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._census: Census | None = None
        self._counted_at = 0.0

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing is asked when the collector is registered."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield self._pool()
        census = self._current()
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
        yield from self._jobs(census)

    def _current(self) -> Census:
        with self._lock:
            if self._census is None or time.monotonic() - self._counted_at > KEPT_SECONDS:
                self._census = count(self._backend)
                self._counted_at = time.monotonic()
            return self._census

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
