"""Spans of jobs and of their nodes.

They are made here, in the gateway, from what a job's result says of its nodes: replicas know nothing of traces.  A
node's times are on the coordinator's clock, and become wall time by what both clocks show when the job ends.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi.telemetry import TelemetryConfig
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NoOpTracerProvider,
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    TracerProvider,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from lego_serve.core.jobs.job import Job, JobResult, TaskStats
from lego_serve.core.workflow.graph import Node, Workflow
from lego_serve.errors import JobCancelled, LegoError
from lego_serve.gateway.telemetry import attributes as names
from lego_serve.gateway.telemetry.trace_context import hexadecimal, submitting_span

NS = 1_000_000_000
CLOSE_S = 2.0
UNTRACED = ("/health/", "/metrics")


@dataclass(slots=True)
class JobSpan:
    """The span of a job that runs."""

    _span: Span
    _tracer: Tracer
    _wall: Callable[[], float]
    _began_s: float
    _awaits_first_chunk: bool

    @property
    def trace_id(self) -> str | None:
        """The id of its trace; None where nothing is traced."""
        return hexadecimal(self._span.get_span_context())

    def chunk(self) -> None:
        """A part of the answer is there; of a stream the first one counts."""
        if self._awaits_first_chunk:
            self._awaits_first_chunk = False
            self._span.set_attribute(names.FIRST_CHUNK_S, self._wall() - self._began_s)

    def completed(self, workflow: Workflow, result: JobResult, now_s: float) -> None:
        """Add the spans of the nodes; ``now_s`` is the time on the clock that theirs are on."""
        self._nodes(workflow, result.stats, now_s)

    def failed(self, workflow: Workflow, error: LegoError, now_s: float) -> None:
        """Add the spans of the nodes of a job that failed, as far as they came."""
        self._nodes(workflow, error.node_stats, now_s)

    def _nodes(self, workflow: Workflow, all_stats: Mapping[str, TaskStats], now_s: float) -> None:
        if not self._span.is_recording():
            return
        offset_s, parent = self._wall() - now_s, set_span_in_context(self._span)
        for name, stats in all_stats.items():
            if stats.began_s is None or stats.ended_s is None:
                continue  # nobody ran it
            node = workflow.nodes[name]
            began_ns, ended_ns = (int((at_s + offset_s) * NS) for at_s in (stats.began_s, stats.ended_s))
            span = self._tracer.start_span(
                node.kind, parent, SpanKind.INTERNAL, _node_attributes(node, stats), start_time=began_ns
            )
            span.end(ended_ns)


class Tracing:
    """Makes the spans of a gateway's jobs; without a provider there are none."""

    def __init__(self, provider: TracerProvider | None = None, wall: Callable[[], float] = time.time) -> None:
        self._provider, self._wall = provider or NoOpTracerProvider(), wall
        self._is_traced = provider is not None
        self._tracer = self._provider.get_tracer("lego_serve")

    async def close(self) -> None:
        """Send what is left, in a short time: the rest is given up where nobody takes it."""
        if (shutdown := getattr(self._provider, "shutdown", None)) is not None:  # the SDK's, not the interface's
            sending = threading.Thread(target=shutdown, daemon=True)
            sending.start()
            await asyncio.to_thread(sending.join, CLOSE_S)

    @contextmanager
    def request_job(self, job: Job, model: str, *, is_streamed: bool = False) -> Iterator[JobSpan]:
        """The span of a job that a client waits for, within the request's.  ``model`` is its name for the client."""
        more = {names.REQUEST_STREAM: True} if is_streamed else {}
        with self._job(job, model, more, context=None, links=()) as span:
            yield span

    @contextmanager
    def durable_job(self, job: Job, model: str, traceparent: str | None) -> Iterator[JobSpan]:
        """The span of an attempt of a durable job: a trace of its own, linked to the span that submitted it."""
        submitted_by = submitting_span(traceparent)
        links = () if submitted_by is None else (Link(submitted_by),)
        with self._job(job, model, {}, context=Context(), links=links) as span:
            yield span

    @contextmanager
    def _job(
        self,
        job: Job,
        model: str,
        more: Mapping[str, AttributeValue],
        *,
        context: Context | None,
        links: Sequence[Link],
    ) -> Iterator[JobSpan]:
        began_s = self._wall()
        span = self._tracer.start_span(
            f"{names.GENERATE} {model}",
            context,
            SpanKind.INTERNAL,
            _job_attributes(job, model) | dict(more) if self._is_traced else None,
            links,
            start_time=int(began_s * NS),
        )
        try:
            yield JobSpan(span, self._tracer, self._wall, began_s, names.REQUEST_STREAM in more)
        except BaseException as error:
            span.set_attribute(names.ERROR_TYPE, _error_type(error))
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end(int(self._wall() * NS))


def request_spans(provider: TracerProvider | None) -> TelemetryConfig:
    """Return how FastAPI traces requests: with our provider alone, which may differ from that of a library.

    Its logs would hold the texts of exceptions, and requests are counted at `/metrics`.
    """
    return TelemetryConfig(
        tracer_provider=provider,
        tracing=provider is not None,
        metrics=False,
        logs=False,
        operation_spans=False,
        auto_configure=False,
        exclude=lambda scope: str(scope["path"]).startswith(UNTRACED),
    )


def hide_query() -> None:
    """Keep the query of the request at work out of its span: it may hold a signature."""
    span = get_current_span()
    if span.is_recording():
        span.set_attribute(names.URL_QUERY, "REDACTED")


def _job_attributes(job: Job, model: str) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {
        names.OPERATION: names.GENERATE,
        names.PROVIDER: names.LEGO_SERVE,
        names.OUTPUT_TYPE: names.IMAGE,
        names.REQUEST_MODEL: model,
        names.RESPONSE_MODEL: job.workflow,
        names.RESPONSE_ID: job.id,
        names.TENANT: job.tenant,
    }
    seed, n = job.inputs.get("seed"), job.inputs.get("n")
    if isinstance(seed, int):
        found[names.REQUEST_SEED] = seed
    if isinstance(n, int) and n != 1:
        found[names.REQUEST_CHOICES] = n
    return found


def _node_attributes(node: Node, stats: TaskStats) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {
        names.NODE: node.name,
        names.NODE_KIND: node.kind,
        names.NODE_MODEL: node.model,
        names.QUEUE_S: stats.queue_s,
        names.RUN_S: stats.run_s,
        names.CACHE_HIT: stats.cache_hit,
        names.BATCH_SIZE: stats.batch_size,
        names.ATTEMPTS: stats.attempts,
    }
    if stats.step_s:
        found |= {names.STEP_S: stats.step_s, names.STEP_LANES: stats.step_lanes}
        found |= {names.STEPS_REDONE: stats.steps_redone}
    return found


def _error_type(error: BaseException) -> str:
    if isinstance(error, LegoError):
        return error.code
    return JobCancelled.code if isinstance(error, asyncio.CancelledError) else type(error).__name__
