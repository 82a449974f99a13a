"""Queued jobs over HTTP: answers, lists and events say when they are expected to end."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from lego_serve.gateway.settings import GatewaySettings
from tests.support.gateway.durable import QUICK, Cluster, until, wait_until
from tests.support.gateway.runner import FakeRunner

IMAGES, JOBS = "/v1/images/generations", "/v1/jobs"
ASYNC = {"prefer": "respond-async"}
BODY = {"prompt": "a red circle", "size": "96x128", "n": 2}


async def test_a_job_that_waits_says_when_it_is_expected_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once one has ended here: the later the more are before it, in answers, lists and events; ask again by then."""
    monkeypatch.setattr("lego_serve.gateway.queue.times.FRESH_S", 0.0)
    cluster = Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny"), replace(QUICK, max_running=1))
    runner = FakeRunner()
    async with cluster.gateway(runner) as gateway:
        runner.gate = asyncio.Event()
        ids = [(await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json()["id"] for _ in range(2)]
        unknown = (await gateway.client.get(f"{JOBS}/{ids[1]}")).json()
        assert (unknown["position"], unknown["eta_s"]) == (0, None)
        await asyncio.sleep(0.3)
        runner.gate.set()
        await until(gateway.client, ids[1])
        runner.gate = asyncio.Event()
        later = [(await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json()["id"] for _ in range(4)]
        await wait_until(lambda: bool(runner.waiting))
        first, second, third = [(await gateway.client.get(f"{JOBS}/{job_id}")).json() for job_id in later[1:]]
        assert [job["position"] for job in (first, second, third)] == [0, 1, 2]
        assert 0.0 < first["eta_s"] < second["eta_s"] < third["eta_s"]
        answer = await gateway.client.get(f"{JOBS}/{later[3]}")
        assert int(answer.headers["openai-poll-after-ms"]) == round(1000 * min(max(third["eta_s"], 0.25), 5.0))
        listed = {job["id"]: job["eta_s"] for job in (await gateway.client.get(JOBS)).json()["data"]}
        assert listed[later[3]] == third["eta_s"]
        listening = asyncio.ensure_future(gateway.client.get(f"{JOBS}/{later[3]}/events"))
        await wait_until(lambda: gateway.app.state.jobs.is_watched(later[3]))
        runner.gate.set()
        told = [json.loads(line[6:]) for line in (await listening).text.splitlines() if line.startswith("data: ")]
        assert any(event["eta_s"] is not None for event in told[:-1])
        assert told[-1]["eta_s"] is None
