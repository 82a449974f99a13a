"""The trace that a request belongs to: the current span's, or the one that its caller named."""

from collections.abc import Iterable

from opentelemetry.context import Context
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

HEADER = b"traceparent"
_propagator = TraceContextTextMapPropagator()


def trace_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the id of a request's trace, 32 hexadecimal digits; None where it belongs to none."""
    span = get_current_span().get_span_context()
    if not span.is_valid:
        named = next((value for name, value in headers if name == HEADER), None)
        if named is None:
            return None
        context = _propagator.extract({HEADER.decode(): named.decode("latin-1")}, Context())
        span = get_current_span(context).get_span_context()
    return f"{span.trace_id:032x}" if span.is_valid else None
