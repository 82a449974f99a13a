"""Progress, interrupt, options and lists, in one gateway and in several."""

import asyncio
import base64
import io
import json
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import httpx2
import pytest
import uvicorn
from PIL import Image

from lego_serve.core.jobs.job import GeneratedImage, JobProgress
from lego_serve.core.scheduling.drain_pace import MEMORY_S
from lego_serve.errors import JobCancelled, StoreUnavailable
from lego_serve.gateway.app import create_app
from lego_serve.gateway.compat.a1111.lists import LISTS
from lego_serve.gateway.peers import Peers
from lego_serve.gateway.settings import ApiKey, GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.comfyui import memory_storage, served
from tests.support.gateway.runner import FakeRunner

URL = "/sdapi/v1"
KEYS = tuple(ApiKey(sha256(name.encode()).hexdigest(), name, is_admin=False) for name in ("alpha", "beta"))
Gateway: TypeAlias = tuple[httpx2.AsyncClient, FakeRunner]
Answer: TypeAlias = "asyncio.Future[httpx2.Response]"
PREVIEW = GeneratedImage(8, 6, bytes([200]) * (3 * 8 * 6), 7)


class StoppableRunner(FakeRunner):
    """Waits for its gate, and ends a job that is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.progress = [JobProgress(0, 5, 20, 1.5, PREVIEW)]

    def cancel(self, job_id: str) -> bool:
        """End all that waits."""
        self.error = JobCancelled("It was cancelled.")
        assert self.gate is not None
        self.gate.set()
        return super().cancel(job_id)


@asynccontextmanager
async def gateway(
    folder: Path, name: str, settings: GatewaySettings
) -> AsyncIterator[tuple[httpx2.AsyncClient, FakeRunner]]:
    """A client of a gateway that listens on a socket in the folder."""
    own, runner = folder / f"{name}.sock", StoppableRunner()
    app = create_app(runner, runner, replace(settings, keys=KEYS), Metrics(), Peers(folder, own))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(own))
    serving = asyncio.ensure_future(server._serve([bound]))
    while not server.started:
        await asyncio.sleep(0.01)
    transport = httpx2.AsyncHTTPTransport(uds=str(own))
    async with httpx2.AsyncClient(transport=transport, base_url="http://a", timeout=60) as client:
        yield client, runner
    server.should_exit = True
    await serving


async def started(
    client: httpx2.AsyncClient, runner: FakeRunner, **options: object
) -> "asyncio.Future[httpx2.Response]":
    """A request for images that is under way."""
    body = {"prompt": "a", "width": 128, "height": 96, "steps": 20, "seed": 3}
    request = asyncio.ensure_future(client.post(f"{URL}/txt2img", json=body, **options))
    while not runner.waiting:
        await asyncio.sleep(0.005)
        assert not request.done(), request.result().text
    return request


async def test_nothing_runs_at_first(client) -> None:
    """Clients wait for a progress of 0 and no job."""
    now = (await client.get(f"{URL}/progress")).json()
    assert (now["progress"], now["state"]["job_count"], now["current_image"]) == (0.0, 0, None)


async def test_progress_and_interrupt_reach_the_gateway_that_has_the_request(tmp_path, settings) -> None:
    """Through another one; the interrupted request is answered with its last preview."""
    headers = {"authorization": "Bearer alpha"}
    async with gateway(tmp_path, "a", settings) as (a, runner), gateway(tmp_path, "b", settings) as (b, _):
        request = await started(a, runner, headers=headers)
        now = (await b.get(f"{URL}/progress", headers=headers)).json()
        assert (now["progress"], now["eta_relative"], now["state"]["sampling_steps"]) == (0.25, 1.5, 20)
        assert Image.open(io.BytesIO(base64.b64decode(now["current_image"]))).size == (128, 96)
        brief = await b.get(f"{URL}/progress", params={"skip_current_image": "true"}, headers=headers)
        assert brief.json()["current_image"] is None
        assert (await b.post(f"{URL}/interrupt", headers=headers)).json() is None
        answer = await request
    assert answer.status_code == 200, answer.text
    [image] = answer.json()["images"]
    assert Image.open(io.BytesIO(base64.b64decode(image))).getpixel((60, 40)) == (200, 200, 200)
    assert json.loads(answer.json()["info"])["all_seeds"] == [7]


async def test_a_request_that_waits_for_its_first_step_is_expected_at_the_recent_pace(
    tmp_path, settings, monkeypatch
) -> None:
    """Of what ended before; nothing is expected while nothing has, and no time is less than none."""
    headers, clock = {"authorization": "Bearer alpha"}, [100.0]
    async with gateway(tmp_path, "a", settings) as (client, runner):
        monkeypatch.setattr(runner, "now", lambda: clock[0])
        runner.progress = []

        async def told() -> float:
            return (await client.get(f"{URL}/progress", headers=headers)).json()["eta_relative"]

        first = await started(client, runner, headers=headers)
        assert await told() == 0.0
        clock[0] += 8.0
        runner.gate.set()
        await first
        runner.gate = asyncio.Event()
        second = await started(client, runner, headers=headers)
        expected_s = MEMORY_S * (1 - math.exp(-8 / MEMORY_S))
        assert await told() == pytest.approx(expected_s)
        clock[0] += 1.0
        assert await told() == pytest.approx(expected_s - 1.0)
        clock[0] += 60.0
        assert await told() == 0.0
        runner.gate.set()
        assert (await second).status_code == 200


async def test_another_tenant_sees_and_stops_nothing(tmp_path, settings) -> None:
    """In any gateway."""
    other = {"authorization": "Bearer beta"}
    async with gateway(tmp_path, "a", settings) as (a, runner), gateway(tmp_path, "b", settings) as (b, _):
        request = await started(a, runner, headers={"authorization": "Bearer alpha"})
        for client in (a, b):
            assert (await client.get(f"{URL}/progress", headers=other)).json()["state"]["job_count"] == 0
            await client.post(f"{URL}/interrupt", headers=other)
        assert not request.done()
        runner.gate.set()
        assert len((await request).json()["images"]) == 1


async def test_a_job_that_others_cancel_is_an_error(client, runner) -> None:
    """An operator's cancel is no interrupt of the caller's."""
    runner.error = JobCancelled("An operator did.")
    answer = await client.post(f"{URL}/txt2img", json={"prompt": "a"})
    assert (answer.status_code, answer.json()["detail"]) == (409, "An operator did.")


async def test_the_chosen_model_is_the_tenants_in_every_gateway(tmp_path, settings) -> None:
    """Posted in part or whole; an unknown one is refused with the nearest, and other settings change nothing."""
    alpha, beta = ({"authorization": f"Bearer {name}"} for name in ("alpha", "beta"))
    async with gateway(tmp_path, "a", settings) as (a, _), gateway(tmp_path, "b", settings) as (b, runner):
        answer = await a.post(f"{URL}/options", json={"sd_model_checkpoint": "gpt-image-1", "x": 1}, headers=alpha)
        assert (answer.status_code, answer.json()) == (200, None)
        whole = (await b.get(f"{URL}/options", headers=alpha)).json()
        assert whole["sd_model_checkpoint"] == "gpt-image-1"
        assert (await b.get(f"{URL}/options", headers=beta)).json()["sd_model_checkpoint"] == "lego-tiny"
        assert (await b.post(f"{URL}/options", json=whole, headers=alpha)).status_code == 200
        wrong = await a.post(f"{URL}/options", json={"sd_model_checkpoint": "lego-tiyn"}, headers=alpha)
        assert (wrong.status_code, "did you mean lego-tiny" in wrong.json()["detail"]) == (400, True)
        request = await started(b, runner, headers=alpha)
        runner.gate.set()
        assert json.loads((await request).json()["info"])["sd_model_name"] == "gpt-image-1"


async def test_the_chosen_model_is_kept_where_jobs_are(settings, tmp_path, monkeypatch) -> None:
    """Gateways that know nothing of each other have it; while the store is away, the last one seen holds."""
    storage = memory_storage(tmp_path / "jobs")
    other = memory_storage(tmp_path / "jobs", "other", storage.store)
    async with served(FakeRunner(), settings, storage) as a, served(FakeRunner(), settings, other) as b:
        await a.client.post(f"{URL}/options", json={"sd_model_checkpoint": "gpt-image-1"})

        async def chosen() -> str:
            return str((await b.client.get(f"{URL}/options")).json()["sd_model_checkpoint"])

        assert await chosen() == "gpt-image-1"

        async def away(name: str, first: str) -> str:
            raise StoreUnavailable("The store is away.")

        monkeypatch.setattr(storage.store, "setting", away)
        assert await chosen() == "gpt-image-1"
        assert (await b.client.post(f"{URL}/txt2img", json={"prompt": "a"})).status_code == 200


@pytest.mark.parametrize("path", LISTS)
async def test_every_list_is_answered(client, path) -> None:
    """With something that its clients can read."""
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")


async def test_pickers_offer_what_there_is(client) -> None:
    """Models by which requests are made, the default first; adapters and ControlNets of all of them."""
    models = (await client.get(f"{URL}/sd-models")).json()
    assert [model["title"] for model in models] == ["lego-tiny", "gpt-image-1"]
    assert [adapter["name"] for adapter in (await client.get(f"{URL}/loras")).json()] == ["a", "b"]
    assert (await client.get("/controlnet/model_list")).json() == {"model_list": ["depth", "edges"]}


async def test_there_is_nothing_to_refresh(client) -> None:
    """The answer is null."""
    assert (await client.post(f"{URL}/refresh-checkpoints")).json() is None
