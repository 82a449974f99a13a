"""Tenants held to their limits over HTTP: what they are told, what counts, and what does not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest

from lego_serve.core.rate_limits import TenantLimits
from lego_serve.gateway.settings import ApiKey, GatewaySettings, LimitSettings
from tests.support.gateway.client import another, error_of, file_of
from tests.support.gateway.durable import Cluster, wait_until
from tests.support.gateway.runner import FakeRunner

URL = "/v1/images/generations"
WORK = 2 * 128 * 128 * 20  # of an image as lego-tiny makes it
BODY = {"prompt": "a"}


@pytest.fixture(autouse=True)
def quotas_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes back while a test runs, however long that takes."""
    monkeypatch.setattr("throttled.utils.now_mono_f", lambda: 1000.0)


@pytest.fixture
async def gateway(runner: FakeRunner, settings: GatewaySettings) -> AsyncIterator[object]:
    """A function that makes a client of a gateway with limits, of tenant `a` unless another is named."""
    keys = tuple(ApiKey(sha256(name.encode()).hexdigest(), name, is_admin=False) for name in ("a", "b"))

    async with AsyncExitStack() as clients:

        async def make(usual: TenantLimits, tenant: str = "a", **tenants: TenantLimits) -> httpx2.AsyncClient:
            limits, compat = LimitSettings(usual, tenants), frozenset({"a1111"})
            limited = replace(settings, keys=keys, max_pending_jobs=8, limits=limits, compat=compat)
            return await clients.enter_async_context(another(runner, limited, tenant))

        yield make


async def test_requests_of_a_minute(gateway, runner) -> None:
    """The third of two is refused at once, and told when to come back, in each of the ways that clients read."""
    client = await gateway(TenantLimits(requests=2))
    answers = [await client.post(URL, json=BODY) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
    assert answers[0].headers["ratelimit-policy"] == '"requests";q=2;w=60'
    assert answers[0].headers["ratelimit"] == '"requests";r=1;t=30'
    assert error_of(answers[2]) == (429, "rate_limit_exceeded", None)
    assert answers[2].json()["error"]["type"] == "rate_limit_error"
    assert answers[2].headers["retry-after"] == "30"
    assert answers[2].headers["retry-after-ms"] == "30000"
    assert len(runner.jobs) == 2


async def test_work_of_a_minute(gateway, runner) -> None:
    """Two images are twice the work; a smaller request still goes through."""
    client = await gateway(TenantLimits(work=2 * WORK + 100))
    assert (await client.post(URL, json=BODY)).status_code == 200
    refused = await client.post(URL, json=BODY | {"n": 2})
    assert error_of(refused) == (429, "rate_limit_exceeded", None)
    assert "pixel-steps" in refused.json()["error"]["message"]
    assert (await client.post(URL, json=BODY | {"num_inference_steps": 5})).status_code == 200
    assert "x-ratelimit-limit-requests" not in refused.headers
    assert refused.headers["ratelimit-policy"].endswith(';qu="pixel-steps"')


async def test_a_request_beyond_the_whole_quota_is_told_so(gateway, runner) -> None:
    """It never fits, so that no SDK should send it again."""
    client = await gateway(TenantLimits(work=WORK))
    refused = await client.post(URL, json=BODY | {"n": 2})
    assert error_of(refused) == (429, "rate_limit_exceeded", None)
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    assert f"{2 * WORK:,} pixel-steps" in refused.json()["error"]["message"]


async def test_what_is_refused_uses_nothing(gateway, runner) -> None:
    """A wrong body, a wrong model or an image that is none."""
    client = await gateway(TenantLimits(requests=1))
    for body in ({}, {"prompt": "a", "model": "nope"}, {"prompt": "a", "size": "1x1"}):
        answer = await client.post(URL, json=body)
        assert answer.status_code in (400, 404)
        assert answer.headers["x-ratelimit-remaining-requests"] == "1"
    assert (await client.post("/v1/images/edits", files={"image": b"x"}, data=BODY)).status_code == 400
    assert (await client.post(URL, json=BODY)).status_code == 200


async def test_edits_and_streams_count_alike(gateway, runner) -> None:
    """And say so in their headers."""
    client = await gateway(TenantLimits(requests=3))
    edited = await client.post("/v1/images/edits", files={"image": file_of()}, data=BODY)
    streamed = await client.post(URL, json=BODY | {"stream": True})
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in (edited, streamed)] == ["2", "1"]


async def test_requests_of_a_foreign_protocol_count_too(gateway, runner) -> None:
    """In its own shape of errors."""
    client = await gateway(TenantLimits(requests=1))
    answers = [await client.post("/sdapi/v1/txt2img", json=BODY | {"width": 128, "height": 128}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "0"
    assert int(answers[1].headers["retry-after-ms"]) > 0


async def test_each_tenant_has_its_own(gateway, runner) -> None:
    """Their counts are apart, and one may have other limits, or none."""
    limits = TenantLimits(requests=1)
    for tenant, own, second in (("a", {}, 429), ("b", {}, 429), ("b", {"b": TenantLimits()}, 200)):
        client = await gateway(limits, tenant, **own)
        statuses = [(await client.post(URL, json=BODY)).status_code for _ in range(2)]
        assert statuses == [200, second]
    assert (await client.get("/v1/models")).headers.get("ratelimit") is None


async def test_requests_in_flight(gateway, runner) -> None:
    """Those that wait for their images; one that ends makes room, and so does one that is refused or leaves."""
    client = await gateway(TenantLimits(in_flight=2))
    runner.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(client.post(URL, json=BODY)) for _ in range(2)]
    while len(runner.waiting) < 2:
        await asyncio.sleep(0)
    refused = await client.post(URL, json=BODY)
    assert error_of(refused) == (429, "rate_limit_exceeded", None)
    assert int(refused.headers["retry-after-ms"]) > 0
    waiting[0].cancel()
    runner.gate.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    for _ in range(3):
        assert (await client.post(URL, json=BODY | {"n": 99})).status_code == 400
        assert (await client.post(URL, json=BODY)).status_code == 200


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_requests_with_a_key_are_in_flight_too(tmp_path: Path, is_streamed: bool) -> None:
    """They wait for their images as others do; whoever submits a job takes no place."""
    limits = LimitSettings(TenantLimits(in_flight=1))
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    body, headers = BODY | {"stream": is_streamed}, {"idempotency-key": "one"}
    async with Cluster(tmp_path, GatewaySettings("lego-tiny", limits=limits)).gateway(runner) as gateway:
        waiting = asyncio.ensure_future(gateway.client.post(URL, json=body, headers=headers))
        await wait_until(lambda: bool(runner.waiting))
        refused = await gateway.client.post(URL, json=BODY)
        assert error_of(refused) == (429, "rate_limit_exceeded", None)
        left = await gateway.client.post(URL, json=BODY, headers={"prefer": "respond-async"})
        assert left.status_code == 202, left.text
        runner.gate.set()
        assert (await waiting).status_code == 200
        assert (await gateway.client.post(URL, json=BODY)).status_code == 200


async def test_a_tenant_without_anything_left_is_not_read(gateway, runner) -> None:
    """Its body may be anything."""
    client = await gateway(TenantLimits(requests=1))
    await client.post(URL, json=BODY)
    refused = await client.post(URL, content=b"{" * 1000, headers={"content-type": "application/json"})
    assert error_of(refused) == (429, "rate_limit_exceeded", None)


async def test_without_limits_nothing_is_said(client) -> None:
    """No header of any limit."""
    answer = await client.post(URL, json=BODY)
    assert not [name for name in answer.headers if "ratelimit" in name]


async def test_durable_jobs_count_when_they_are_accepted(tmp_path: Path) -> None:
    """Whichever way they come; a request that is repeated under its key uses nothing."""
    limits = LimitSettings(TenantLimits(requests=3, work=100 * WORK))
    async with Cluster(tmp_path, GatewaySettings("lego-tiny", limits=limits)).gateway() as gateway:
        client, wait = gateway.client, {"prefer": "respond-async"}
        job = {"endpoint": URL, "body": BODY}
        keyed = [await client.post("/v1/jobs", json=job, headers={"idempotency-key": "k"}) for _ in range(3)]
        assert [answer.headers.get("idempotency-replayed") for answer in keyed] == [None, "true", "true"]
        told = [answer.headers.get("x-ratelimit-remaining-requests") for answer in keyed]
        assert told == ["2", None, None]  # what is left when the job is accepted; a repeat asks for nothing
        assert (await client.post("/v1/jobs", json=job)).headers["x-ratelimit-remaining-requests"] == "1"
        accepted = await client.post(URL, json=BODY, headers=wait)
        assert (accepted.status_code, accepted.headers["x-ratelimit-remaining-requests"]) == (202, "0")
        for path, body in (("/v1/jobs", job), (URL, BODY)):
            refused = await client.post(path, json=body, headers=wait)
            assert error_of(refused) == (429, "rate_limit_exceeded", None)


async def test_a_tenant_may_have_fewer_durable_jobs_open_than_others(tmp_path: Path) -> None:
    """Its own limit comes before that of all."""
    limits = LimitSettings(tenants={"default": TenantLimits(queued=1)})
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    async with Cluster(tmp_path, GatewaySettings("lego-tiny", limits=limits)).gateway(runner) as gateway:
        job = {"endpoint": URL, "body": BODY}
        assert (await gateway.client.post("/v1/jobs", json=job)).status_code == 202
        assert error_of(await gateway.client.post("/v1/jobs", json=job)) == (429, "queue_full", None)
        runner.gate.set()
