"""What is counted, and where it is read: Prometheus' text at a port of its own, for each process.

Labels are bounded: route templates, methods, classes of status, codes of errors. Never a name that somebody chose.
"""

from lorahub.errors import InvalidConfiguration
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

REQUESTS = Histogram(
    "lorahub_request_seconds",
    "Requests, from their first line to their last byte",
    ["method", "route", "status"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
IN_FLIGHT = Gauge("lorahub_requests_in_flight", "Requests that are under way", registry=REGISTRY)
CONNECTIONS = Gauge("lorahub_connections", "Connections of clients and proxies", registry=REGISTRY)
ENDED = Counter(
    "lorahub_connections_ended", "Connections that the registry ended, by why", ["reason"], registry=REGISTRY
)
RECEIVED = Counter("lorahub_received_bytes", "Bytes of request bodies", ["route"], registry=REGISTRY)
SENT = Counter("lorahub_sent_bytes", "Bytes of answers", ["route"], registry=REGISTRY)
REFUSALS = Counter("lorahub_errors", "Error answers by code (docs/errors.md)", ["code"], registry=REGISTRY)

PUSHES = Counter("lorahub_pushes", "Commits published", registry=REGISTRY)
PULLS = Counter("lorahub_pulls", "Reads of weights from their first byte", registry=REGISTRY)
UPLOADS = Counter("lorahub_uploads", "Uploads ended: kept, or refused for other bytes", ["outcome"], registry=REGISTRY)

QUOTAS = Counter("lorahub_quota_refusals", "Requests that a quota refused, by quota", ["quota"], registry=REGISTRY)

COLLECTIONS = Counter("lorahub_gc_runs", "Garbage collections", registry=REGISTRY)
COLLECTED = Counter("lorahub_gc_bytes", "Bytes collected", registry=REGISTRY)
STORAGE_FAULTS = Counter("lorahub_storage_faults", "Operations that the storage failed", ["fault"], registry=REGISTRY)
MIRRORED = Counter("lorahub_mirror_runs", "Runs of mirrors, by what came of them", ["outcome"], registry=REGISTRY)
UPSTREAM = Counter(
    "lorahub_upstream_acts", "Questions to upstreams and files of theirs", ["outcome"], registry=REGISTRY
)
UPSTREAM_BYTES = Counter("lorahub_upstream_bytes", "Bytes fetched from upstreams", registry=REGISTRY)
WEBHOOKS = Counter(
    "lorahub_webhook_deliveries", "Messages of webhooks, by what came of each try", ["outcome"], registry=REGISTRY
)
OUTBOUND = Counter("lorahub_outbound_calls", "Calls to other hosts, by how they ended", ["outcome"], registry=REGISTRY)


def serve(address: str) -> None:
    """Answers `GET /metrics` at `host:port` from a thread, until the process ends. Raises `InvalidConfiguration`."""
    host, _, port = address.rpartition(":")
    try:
        start_http_server(int(port), addr=host.strip("[]") or "127.0.0.1", registry=REGISTRY)
    except (OSError, ValueError, OverflowError) as error:
        raise InvalidConfiguration(
            f"can't serve metrics at {address}: {error}", hint="LORAHUB_METRICS_ADDRESS is HOST:PORT, of a free port"
        ) from error
