"""Sends spans by OTLP, as the environment's ``OTEL_*`` variables say.  Needs `lego_serve[otel]`."""

import os
from typing import TYPE_CHECKING

from lego_serve.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SERVICE_NAME = "OTEL_SERVICE_NAME"


def require_extra() -> None:
    """Raise ConfigError where the extra is not installed."""
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError:
        raise ConfigError("`server.traces` needs OpenTelemetry: pip install 'lego_serve[otel]'") from None


def otlp_provider() -> "TracerProvider":
    """Return a provider whose spans are sent from a thread of its own.  Raises ConfigError without the extra."""
    require_extra()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = {} if SERVICE_NAME in os.environ else {"service.name": "lego_serve"}
    provider = TracerProvider(resource=Resource.create(name), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
