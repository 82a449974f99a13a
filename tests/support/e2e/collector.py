"""A collector of spans, as OpenTelemetry's takes them: OTLP over HTTP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent; ``place`` is its host and port."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.taken: list[ExportTraceServiceRequest] = []
        self.place = f"127.0.0.1:{self.server_port}"

    def spans(self) -> set[tuple[str, str]]:
        """The service and the name of each span."""
        found = set()
        for resource in (each for request in self.taken for each in request.resource_spans):
            names = [each.value.string_value for each in resource.resource.attributes if each.key == "service.name"]
            found |= {(name, span.name) for name in names for scope in resource.scope_spans for span in scope.spans}
        return found


class _Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        """Keep a request."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.taken.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@contextmanager
def collecting() -> Iterator[Collector]:
    """One that listens."""
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield collector
        collector.shutdown()
