"""Spans of requests (OpenTelemetry): exported where the standard variables of the environment name a place, by the
packages of the extra `otel`; otherwise there are none, and nothing of it is imported.
"""

import logging
import os
from collections.abc import MutableMapping
from importlib.util import find_spec
from typing import Any

from fastapi.telemetry import TelemetryConfig

logger = logging.getLogger("lorahub")

_PLACES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_UNTRACED = ("/lfs/", "/cas/", "/livez", "/readyz", "/startupz")
"""Addresses that are credentials, which a span would tell, and those that are asked every second."""


def telemetry() -> TelemetryConfig:
    """Spans only: faults and figures have the log and the metrics, which say no secrets."""
    is_wanted = any(os.environ.get(place) for place in _PLACES)
    if is_wanted and not _is_installed():
        logger.warning("no spans are exported: install lorahub-registry[otel]")
    return TelemetryConfig(
        auto_configure=is_wanted and _is_installed(),
        tracing=True,
        metrics=False,
        logs=False,
        operation_spans=True,
        exclude=_is_untraced,
    )


def _is_installed() -> bool:
    return find_spec("opentelemetry.sdk") is not None and find_spec("opentelemetry.exporter") is not None


def _is_untraced(scope: MutableMapping[str, Any]) -> bool:
    return str(scope.get("path", "")).startswith(_UNTRACED)
