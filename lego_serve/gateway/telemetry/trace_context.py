"""The trace that a request belongs to: the current span's, or the one that its caller named."""

from collections.abc import Iterable, Mapping

from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

HEADER = "traceparent"
HEADER_BYTES = HEADER.encode()
_propagator = TraceContextTextMapPropagator()


def trace_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the id of a request's trace, 32 hexadecimal digits; None where it belongs to none."""
    span = get_current_span().get_span_context()
    if span.is_valid:
        return hexadecimal(span)
    named = next((value for name, value in headers if name == HEADER_BYTES), None)
    return None if named is None else hexadecimal(submitting_span(named.decode("latin-1")))


def traceparent(headers: Mapping[str, str]) -> str | None:
    """Return what names the span of the request at work to others: its own, or the one that its caller named."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    if not carrier and (named := submitting_span(headers.get(HEADER))) is not None:
        _propagator.inject(carrier, set_span_in_context(NonRecordingSpan(named), Context()))
    return carrier.get(HEADER)


def submitting_span(named: str | None) -> SpanContext | None:
    """Return the span that a ``traceparent`` names; None where it names none."""
    if named is None:
        return None
    span = get_current_span(_propagator.extract({HEADER: named}, Context())).get_span_context()
    return span if span.is_valid else None


def hexadecimal(span: SpanContext | None) -> str | None:
    """Return the id of a span's trace; None where there is none."""
    return f"{span.trace_id:032x}" if span is not None and span.is_valid else None
