"""A job is a span within its request's, and its nodes are spans within the job's, at the times they had."""

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from lego_serve.core.jobs.job import Job, JobProgress, JobResult, TaskStats
from lego_serve.errors import CapacityError, ConfigError, NodeError
from lego_serve.gateway.app import create_app
from lego_serve.gateway.telemetry.export import otlp_provider
from lego_serve.gateway.telemetry.trace_context import traceparent
from lego_serve.gateway.telemetry.tracing import NS, Tracing
from lego_serve.metrics import Metrics
from tests.support.e2e.collector import collecting
from tests.support.gateway.runner import tiny_workflows

URL = "/v1/images/generations"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
LANE = TaskStats(0.25, 1.5, False, 2, (0.5, 1.0), (1, 2), began_s=90.0, ended_s=92.0)
JOB = Job("job_x", "lego-tiny", {"seed": 7, "n": 2}, 0.0, tenant="acme")


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """What takes the spans."""
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    """What makes them."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


@pytest.fixture
async def traced(runner, settings, provider) -> Iterator[httpx2.AsyncClient]:
    """A client of a gateway that traces."""
    app = create_app(runner, runner, settings, Metrics(), tracer_provider=provider)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """The spans that have ended, by name."""
    return {span.name: span for span in exporter.get_finished_spans()}


async def test_a_request_its_job_and_its_nodes_are_spans_within_each_other(traced, runner, exporter) -> None:
    """In the caller's trace; a job's attributes are those of the conventions for generative AI, a node's are ours."""
    runner.stats = {"latents": LANE}
    body = {"prompt": "secret", "seed": 7, "n": 2, "model": "gpt-image-1"}
    await traced.post(URL, json=body, headers=CALLER | {"x-request-id": "r1"})
    found = spans(exporter)
    request, job, node = found[f"POST {URL}"], found["generate_content gpt-image-1"], found["denoise"]
    assert {span.context.trace_id for span in found.values()} == {int(TRACE, 16)}
    assert [span.parent.span_id for span in (request, job, node)] == [
        int(SPAN, 16),
        request.context.span_id,
        job.context.span_id,
    ]
    assert (job.kind, dict(job.attributes)) == (
        SpanKind.INTERNAL,
        {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "lego_serve",
            "gen_ai.output.type": "image",
            "gen_ai.request.model": "gpt-image-1",
            "gen_ai.response.model": "lego-tiny",
            "gen_ai.response.id": "job_r1",
            "gen_ai.request.seed": 7,
            "gen_ai.request.choice.count": 2,
            "lego_serve.tenant": "default",
        },
    )
    assert node.attributes["lego_serve.node.step_s"] == (0.5, 1.0)
    assert node.attributes["lego_serve.node.step_lanes"] == (1, 2)
    assert "secret" not in "".join(span.to_json() for span in found.values())


def test_times_of_the_coordinator_become_wall_time(exporter, provider) -> None:
    """By what both clocks show at the job's end: a node that ended two seconds before it did so by either."""
    wall = iter((1000.0, 1010.0, 1010.0))
    with Tracing(provider, lambda: next(wall)).request_job(JOB, "lego-tiny") as span:
        span.completed(tiny_workflows()["lego-tiny"], JobResult((), 0.0, stats={"latents": LANE}), now_s=94.0)
    found = spans(exporter)
    node, job = found["denoise"], found["generate_content lego-tiny"]
    assert (job.start_time, job.end_time) == (1000 * NS, 1010 * NS)
    assert (node.start_time, node.end_time) == (1006 * NS, 1008 * NS)


async def test_a_stream_says_how_long_its_first_part_took(traced, runner, exporter) -> None:
    """Of progress where there is any, else of the images; other requests have no such attribute."""
    for progress in ([], [JobProgress(0, 1, 2, 0.5)]):
        runner.progress = progress
        await traced.post(URL, json={"prompt": "a", "stream": True})
        attributes = spans(exporter)["generate_content lego-tiny"].attributes
        assert attributes["gen_ai.request.stream"]
        assert 0 <= attributes["gen_ai.response.time_to_first_chunk"] < 60


@pytest.mark.parametrize(
    ("error", "kind"),
    [(NodeError("It broke."), "node_failed"), (CapacityError("Full."), "over_capacity"), (KeyError("x"), "KeyError")],
)
async def test_a_job_that_fails_is_a_span_that_says_as_what(traced, runner, exporter, error, kind: str) -> None:
    """The code of the error, without its message."""
    runner.error = error
    await traced.post(URL, json={"prompt": "a"})
    job = spans(exporter)["generate_content lego-tiny"]
    assert (job.status.status_code, job.attributes["error.type"]) == (StatusCode.ERROR, kind)
    assert not job.events


async def test_a_job_that_fails_has_the_spans_of_its_nodes(traced, runner, exporter) -> None:
    """As far as they came."""
    runner.error = NodeError("It broke.")
    runner.error.node_stats = {"latents": LANE}
    await traced.post(URL, json={"prompt": "a"})
    found = spans(exporter)
    job, node = found["generate_content lego-tiny"], found["denoise"]
    assert node.parent.span_id == job.context.span_id
    assert node.end_time - node.start_time == 2 * NS


async def test_a_client_that_leaves_ends_its_span(runner, exporter, provider) -> None:
    """As a job that was cancelled."""
    with pytest.raises(asyncio.CancelledError), Tracing(provider).request_job(JOB, "lego-tiny"):
        raise asyncio.CancelledError
    assert spans(exporter)["generate_content lego-tiny"].attributes["error.type"] == "job_cancelled"


async def test_queries_and_health_checks_are_not_traced(traced, exporter) -> None:
    """A query may hold a signature."""
    for path in ("/health/ready", "/metrics", "/v1/models?expires=1&signature=secret"):
        await traced.get(path)
    [request] = exporter.get_finished_spans()
    assert request.attributes["url.query"] == "REDACTED"


async def test_log_lines_have_the_trace_of_the_requests_own_span(traced, exporter, logged) -> None:
    """Also where the caller has named none."""
    await traced.get("/v1/models")
    [line], [request] = logged("lego_serve.access"), exporter.get_finished_spans()
    assert line["trace_id"] == f"{request.context.trace_id:032x}"


async def test_without_a_provider_nothing_is_traced(client, exporter, provider, monkeypatch) -> None:
    """Even where a library has set one for the whole process."""
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)
    await client.post(URL, json={"prompt": "a"})
    assert not exporter.get_finished_spans()


def test_a_durable_job_has_a_trace_of_its_own_with_a_link_to_its_submitter(exporter, provider) -> None:
    """Wherever it is claimed, even within the request that submitted it."""
    tracing = Tracing(provider)
    with provider.get_tracer("t").start_as_current_span("submit") as submitting:
        named = traceparent({})
        with tracing.durable_job(JOB, "lego-tiny", named) as span:
            assert span.trace_id is not None
    job = spans(exporter)["generate_content lego-tiny"]
    assert job.parent is None
    assert job.context.trace_id != submitting.get_span_context().trace_id
    [link] = job.links
    assert link.context.span_id == submitting.get_span_context().span_id


@pytest.mark.parametrize("named", [None, "", "nonsense", f"00-{'0' * 32}-{SPAN}-01", "é"])
def test_a_durable_job_without_a_submitter_that_is_known_has_no_link(exporter, provider, named: str | None) -> None:
    """A record may come from a gateway that traces nothing."""
    with Tracing(provider).durable_job(JOB, "lego-tiny", named):
        pass
    assert not spans(exporter)["generate_content lego-tiny"].links


def test_who_traces_nothing_passes_on_the_trace_of_its_caller() -> None:
    """As the caller named it; nothing that is no trace."""
    assert traceparent(CALLER) == CALLER["traceparent"]
    assert traceparent({"traceparent": "nonsense"}) is None
    assert traceparent({}) is None


def test_without_the_extra_the_error_says_what_to_install(monkeypatch) -> None:
    """Before anything is started."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"pip install 'lego_serve\[otel\]'"):
        otlp_provider()


async def test_spans_arrive_at_the_collector_that_the_environment_names(monkeypatch) -> None:
    """Those that are left are sent as the gateway closes."""
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{collector.place}")
        tracing = Tracing(otlp_provider())
        with tracing.request_job(replace(JOB, id="job_sent"), "lego-tiny"):
            pass
        await tracing.close()
    assert collector.spans() == {("lego_serve", "generate_content lego-tiny")}
