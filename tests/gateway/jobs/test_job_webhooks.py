"""A job that names a receiver tells it of its end, once and signed."""

import asyncio
import json
from pathlib import Path

import httpx2
import pytest
from standardwebhooks import Webhook

from lego_serve.core.durable_jobs.receivers import ReceiverRules
from lego_serve.errors import NodeError
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.webhooks.settings import WebhookSettings
from tests.support.gateway.client import error_of
from tests.support.gateway.durable import Cluster, until
from tests.support.gateway.runner import FakeRunner
from tests.support.webhooks.receiver import receiving
from tests.support.webhooks.sending import NEW_SECRET
from tests.support.webhooks.sending import until as come_about

JOBS = "/v1/jobs"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def cluster_of(folder: Path, *allowed: str, secrets: tuple[str, ...] = (NEW_SECRET,)) -> Cluster:
    """A server that signs, and sends to these hosts."""
    settings = WebhookSettings({"default": secrets}, ReceiverRules(frozenset(allowed)))
    return Cluster(folder / "jobs", GatewaySettings("lego-tiny"), webhooks=settings)


def job_for(url: str, *events: str) -> dict[str, object]:
    """A job that tells a receiver."""
    webhook = {"url": url} | ({"events": events} if events else {})
    return {"endpoint": "/v1/images/generations", "body": {"prompt": "a"}, "webhook": webhook}


async def counted(client: httpx2.AsyncClient, sample: str) -> None:
    """Wait until the metrics have a sample: a receiver has a message before its sender knows so."""
    async with asyncio.timeout(60):
        while sample not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("error", "status"), [(None, "completed"), (NodeError("broken"), "failed")])
async def test_a_receiver_hears_how_a_job_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, status: str
) -> None:
    """At once, and where to read the rest; the trace of the submission goes with it."""
    monkeypatch.setattr("lego_serve.webhooks.sender.POLL_S", 60.0)
    runner = FakeRunner()
    runner.error = error
    async with receiving() as receiver, cluster_of(tmp_path, receiver.address).gateway(runner) as gateway:
        hook = job_for(f"http://{receiver.address}/hook")
        job = (await gateway.client.post(JOBS, json=hook, headers={"traceparent": TRACE})).json()
        assert job["webhook"] == {"url": f"http://{receiver.address}/hook", "events": []}
        await come_about(lambda: bool(receiver.got))
        (got,) = receiver.got
        message = Webhook(NEW_SECRET).verify(got.body, got.headers)
        assert (message["type"], message["data"]["id"]) == (f"job.{status}", job["id"])
        assert got.headers["traceparent"].startswith(TRACE[:36])
        asked = await gateway.client.get(message["data"]["urls"]["result"])
        assert asked.status_code == (200 if error is None else 500)
        await counted(gateway.client, 'lego_serve_webhooks_total{outcome="delivered"} 1.0')


async def test_a_receiver_hears_only_of_the_ends_it_asked_for(tmp_path: Path) -> None:
    """Of two jobs that are completed one tells."""
    async with receiving() as receiver, cluster_of(tmp_path, receiver.address).gateway() as gateway:
        for events in (["job.failed"], ["job.completed", "job.failed"]):
            job = (await gateway.client.post(JOBS, json=job_for(f"http://{receiver.address}/", *events))).json()
            assert (await until(gateway.client, job["id"]))["status"] == "completed"
        await come_about(lambda: bool(receiver.got))
        assert [json.loads(got.body)["data"]["id"] for got in receiver.got] == [job["id"]]


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost/",
        "http://127.1/",
        "http://2130706433/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://10.0.0.1/",
        "http://hooks.example:6379/",
        "http://user@hooks.example/",
        "http://hooks.example\\@127.0.0.1/",
        "http://hooks.example#@127.0.0.1/",
        "https://hooks.example/#a",
        "file:///etc/passwd",
        "gopher://hooks.example/",
        "hooks.example",
        "//hooks.example/",
        "http://h\u00f6oks.example/",
    ],
)
async def test_a_receiver_that_cannot_be_is_refused_at_submit(tmp_path: Path, url: str) -> None:
    """By its field, and no job is accepted."""
    async with cluster_of(tmp_path).gateway() as gateway:
        answer = await gateway.client.post(JOBS, json=job_for(url))
        assert error_of(answer) == (400, "invalid_webhook_url", "webhook.url")
        assert url not in answer.text
        assert (await gateway.client.get(JOBS)).json()["data"] == []


async def test_a_server_without_a_secret_takes_no_webhooks(tmp_path: Path) -> None:
    """It says whose matter that is, and the job without one is taken."""
    async with cluster_of(tmp_path, secrets=()).gateway() as gateway:
        answer = await gateway.client.post(JOBS, json=job_for("https://hooks.example/"))
        assert error_of(answer) == (400, "webhooks_not_configured", "webhook")
        body = job_for("https://hooks.example/") | {"webhook": None}
        assert (await gateway.client.post(JOBS, json=body)).status_code == 202
