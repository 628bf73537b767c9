"""Whether spans are exported (OpenTelemetry), and by whom: FastAPI for an API process, `exporting` for a worker."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

logger = logging.getLogger("lorahub")

_PLACES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def is_wanted() -> bool:
    """Where a standard variable of the environment names a place, and the packages of the extra `otel` are there."""
    is_asked_for = any(os.environ.get(place) for place in _PLACES)
    if is_asked_for and not _is_installed():
        logger.warning("no spans are exported: install lorahub-registry[otel]")
        return False
    return is_asked_for


def _is_installed() -> bool:
    return find_spec("opentelemetry.sdk") is not None and find_spec("opentelemetry.exporter") is not None


@contextmanager
def exporting() -> Iterator[None]:
    """Sends the spans of this process, where they are wanted; the last ones at the end."""
    if not is_wanted():
        yield
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
