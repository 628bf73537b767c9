"""Spans of requests (OpenTelemetry): exported where the standard variables of the environment name a place, by the
packages of the extra `otel`; otherwise there are none, and nothing of it is imported.
"""

from collections.abc import MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig

from lorahub_registry.infrastructure.tracing import is_wanted

_UNTRACED = ("/lfs/", "/cas/", "/livez", "/readyz", "/startupz")
"""Addresses that are credentials, which a span would tell, and those that are asked every second."""


def telemetry() -> TelemetryConfig:
    """Spans only: faults and figures have the log and the metrics, which say no secrets."""
    return TelemetryConfig(
        auto_configure=is_wanted(),
        tracing=True,
        metrics=False,
        logs=False,
        operation_spans=True,
        exclude=_is_untraced,
    )


def _is_untraced(scope: MutableMapping[str, Any]) -> bool:
    return str(scope.get("path", "")).startswith(_UNTRACED)
