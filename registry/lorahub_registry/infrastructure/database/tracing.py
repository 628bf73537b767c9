"""A span for each statement of what is traced itself: a request, a job. The packages that do this for SQLAlchemy stop
before its version 2.1.
"""

from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from sqlalchemy import Engine, event

_TRACER = trace.get_tracer("lorahub")


def trace_statements(engine: Engine) -> None:
    """The text of a statement is told, with names where the values go; the values are nobody's business."""
    system = "sqlite" if engine.dialect.name == "sqlite" else "postgresql"

    @event.listens_for(engine, "before_cursor_execute")
    def begin(_connection: Any, _cursor: Any, statement: str, _values: Any, context: Any, _many: Any) -> None:
        if trace.get_current_span().is_recording():
            attributes = {"db.system.name": system, "db.query.text": statement}
            name = statement.split(maxsplit=1)[0]
            context.lorahub_span = _TRACER.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)

    @event.listens_for(engine, "after_cursor_execute")
    def end(_connection: Any, _cursor: Any, _statement: Any, _values: Any, context: Any, _many: Any) -> None:
        if span := getattr(context, "lorahub_span", None):
            span.end()

    @event.listens_for(engine, "handle_error")
    def fail(failure: Any) -> None:
        if span := getattr(failure.execution_context, "lorahub_span", None):
            span.set_status(Status(StatusCode.ERROR, type(failure.original_exception).__name__))
            span.end()
