"""Durable jobs in logs and traces: whose they are, and who submitted them."""

import asyncio
import json
from pathlib import Path

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lego_serve.errors import NodeError
from lego_serve.gateway.settings import GatewaySettings
from tests.support.gateway.durable import Cluster, until
from tests.support.gateway.runner import FakeRunner

URL = "/v1/images/generations"
SECRET = "nobody's business"
WAYS = (
    (URL, {"prompt": SECRET}, {"prefer": "respond-async"}),
    ("/v1/jobs", {"endpoint": URL, "body": {"prompt": SECRET}}, {}),
)


@pytest.mark.parametrize("error", [None, NodeError("It broke.")])
@pytest.mark.parametrize(("path", "body", "headers"), WAYS)
async def test_a_durable_job_is_a_trace_linked_to_its_submission_and_its_lines_name_both(
    tmp_path: Path, logged, path: str, body: dict[str, object], headers: dict[str, str], error: Exception | None
) -> None:
    """The request's line has its trace and the job's id; what the job logs has the job's own trace, and no prompt."""
    exporter, provider, runner = InMemorySpanExporter(), TracerProvider(), FakeRunner()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    runner.error = error
    app = Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny")).app(runner, traces=provider)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        job_id = (await client.post(path, json=body, headers=headers)).json()["id"]
        await until(client, job_id)
        await asyncio.sleep(0)
    found = exporter.get_finished_spans()
    [submission] = [span for span in found if span.name == f"POST {path}"]
    [job] = [span for span in found if span.name == "generate_content lego-tiny"]
    assert [link.context.span_id for link in job.links] == [submission.context.span_id]
    assert job.parent is None
    assert job.attributes.get("error.type") == (None if error is None else "node_failed")
    assert SECRET not in json.dumps(logged("lego_serve")) + "".join(map(ReadableSpan.to_json, found))
    [line] = [line for line in logged("lego_serve.access") if line["method"] == "POST"]
    assert (line["job_id"], line["tenant"], line["status"]) == (job_id, "default", 202)
    assert line["trace_id"] == f"{submission.context.trace_id:032x}"


async def test_prompts_of_durable_jobs_are_logged_where_the_operator_asks_for_them(tmp_path: Path, logged) -> None:
    """In the line of the request that submits, whichever way."""
    async with Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny", log_prompts=True)).gateway() as gateway:
        for path, body, headers in WAYS:
            await gateway.client.post(path, json=body, headers=headers)
    lines = [line for line in logged("lego_serve.access") if line["method"] == "POST"]
    assert [line["prompt"] for line in lines] == [SECRET, SECRET]
