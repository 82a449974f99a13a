"""What a listener at /ws hears, whenever and wherever it comes."""

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
import websockets

from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.core.jobs.job import GeneratedImage, Job, JobProgress, JobResult
from lego_serve.errors import NodeError
from lego_serve.gateway.jobs.service import DurableJobs
from lego_serve.gateway.settings import ApiKey, GatewaySettings
from tests.support.gateway.comfyui import Served, memory_storage, served
from tests.support.gateway.runner import FakeRunner
from tests.support.graphs import text_to_image

PREVIEW = GeneratedImage(8, 6, bytes(3 * 8 * 6), 7)
PATIENCE_S = 60.0


class TellingRunner(FakeRunner):
    """Remembers whom its job tells of progress."""

    async def run(self, job: Job, tell: Any = None, checkpoints: Any = None) -> JobResult:
        """Run as ever."""
        self.tell = tell
        return await super().run(job, tell, checkpoints)


def listening(gateway: Served, client_id: str = "me", **options: Any) -> websockets.connect:
    """A connection of a client."""
    return websockets.connect(f"ws://127.0.0.1:{gateway.port}/ws?clientId={client_id}", **options)


async def heard(connection: websockets.ClientConnection, last: str) -> list[Any]:
    """The messages until one of a kind, with the kinds of binary ones."""
    found: list[Any] = []
    async with asyncio.timeout(PATIENCE_S):
        async for message in connection:
            if isinstance(message, bytes):
                found.append({"type": "preview", "head": struct.unpack(">II", message[:8]), "data": {}})
                if last == "preview":
                    break
                continue
            found.append(json.loads(message))
            data = found[-1]["data"]
            if found[-1]["type"] == last and (last != "executing" or data["node"] is None):
                break
    return found


async def queued(gateway: Served, **body: Any) -> str:
    """A prompt that was accepted."""
    answer = await gateway.client.post("/prompt", json={"prompt": text_to_image(), "client_id": "me"} | body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["prompt_id"])


def kinds(messages: list[Any]) -> list[str]:
    """Their kinds, without the status, which comes whenever the count changes."""
    return [message["type"] for message in messages if message["type"] != "status"]


async def test_a_listener_hears_a_prompts_life_in_order(runner, settings, tmp_path) -> None:
    """Its history is there when the end is told, and the count of what remains is true."""
    async with (
        served(runner, settings, memory_storage(tmp_path / "jobs")) as gateway,
        listening(gateway) as connection,
    ):
        [hello] = await heard(connection, "status")
        assert hello["data"] == {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "me"}
        prompt_id = await queued(gateway)
        messages = await heard(connection, "executing")
        assert prompt_id in (await gateway.client.get(f"/history/{prompt_id}")).json()
    told = [kind for kind in kinds(messages) if kind != "progress"]
    ends = ["executing", "executed", "execution_success", "executing"]
    assert told == ["execution_start", "execution_cached", "executing", *ends]
    executed = next(message["data"] for message in messages if message["type"] == "executed")
    assert (executed["node"], len(executed["output"]["images"])) == ("9", 2)
    assert messages[-2]["data"]["status"]["exec_info"]["queue_remaining"] == 0


async def test_a_listener_that_comes_late_hears_the_rest(runner, settings, tmp_path) -> None:
    """The first message says that its prompt remains; one that has ended before is only in the history."""
    runner.gate = asyncio.Event()
    async with served(runner, settings, memory_storage(tmp_path / "jobs")) as gateway:
        prompt_id = await queued(gateway)
        async with listening(gateway) as connection:
            [hello] = await heard(connection, "status")
            assert hello["data"]["status"]["exec_info"]["queue_remaining"] == 1
            runner.gate.set()
            messages = await heard(connection, "executing")
            assert messages[-1]["data"]["prompt_id"] == prompt_id
        async with listening(gateway) as connection:
            [hello] = await heard(connection, "status")
            assert hello["data"]["status"]["exec_info"]["queue_remaining"] == 0
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.recv(), 1.0)


async def test_a_listener_hears_of_prompts_in_another_gateway(settings, tmp_path) -> None:
    """They share the store; prompts of other clients are not told."""
    storage = memory_storage(tmp_path / "jobs")
    other = memory_storage(tmp_path / "jobs", "other", storage.store)  # type: ignore[arg-type]
    async with (
        served(FakeRunner(), settings, storage) as a,
        served(FakeRunner(), settings, other) as b,
        listening(b) as connection,
    ):
        await queued(a, client_id="somebody else")
        prompt_id = await queued(a)
        messages = await heard(connection, "executing")
    assert {message["data"].get("prompt_id", prompt_id) for message in messages} == {prompt_id}


@pytest.mark.parametrize("asks", ["prompt", "listener", "neither"])
async def test_previews_are_sent_to_who_asks(settings, tmp_path, asks: str) -> None:
    """As JPEG with a head of eight bytes; to others not, for some clients take any bytes for the result."""
    runner = TellingRunner()
    runner.gate = asyncio.Event()
    extra = {"extra_data": {"preview_method": "auto"}} if asks == "prompt" else {}
    async with (
        served(runner, settings, memory_storage(tmp_path / "jobs")) as gateway,
        listening(gateway) as connection,
    ):
        await heard(connection, "status")
        if asks == "listener":
            await connection.send(json.dumps({"type": "feature_flags", "data": {}}))
            await asyncio.wait_for(await connection.ping(), PATIENCE_S)  # what came before it was heard
        await queued(gateway, **extra)
        messages = await heard(connection, "execution_start")
        for lane in range(2):
            runner.tell(JobProgress(lane, 10, 20, 1.0, PREVIEW))
        if asks != "neither":
            messages += await heard(connection, "preview")
        await asyncio.sleep(0.3)
        runner.gate.set()
        messages += await heard(connection, "executing")
    heads = [message["head"] for message in messages if message["type"] == "preview"]
    assert heads == ([] if asks == "neither" else [(1, 1)] * len(heads))
    assert bool(heads) is (asks != "neither")
    assert {"value": 10, "max": 20} in [
        {name: message["data"][name] for name in ("value", "max")}
        for message in messages
        if message["type"] == "progress"
    ]


async def test_an_error_is_told_with_its_reason(runner, settings, tmp_path) -> None:
    """And the prompt is over."""
    runner.error = NodeError("A node failed.")
    async with (
        served(runner, settings, memory_storage(tmp_path / "jobs")) as gateway,
        listening(gateway) as connection,
    ):
        await queued(gateway)
        messages = await heard(connection, "executing")
    error = next(message["data"] for message in messages if message["type"] == "execution_error")
    assert (error["exception_message"], error["node_id"], error["node_type"]) == ("A node failed.", "3", "KSampler")


async def test_an_end_that_no_watch_tells_is_told_all_the_same(runner, settings, tmp_path, monkeypatch) -> None:
    """Such as one that came between the look at a prompt and its watch; it is told once."""

    found = asyncio.Event()

    async def silent(jobs: DurableJobs, record: JobRecord) -> AsyncIterator[JobRecord]:
        found.set()
        yield record
        await asyncio.sleep(2 * PATIENCE_S)

    runner.gate = asyncio.Event()
    monkeypatch.setattr(DurableJobs, "watch", silent)
    async with (
        served(runner, settings, memory_storage(tmp_path / "jobs")) as gateway,
        listening(gateway) as connection,
    ):
        await queued(gateway)
        await asyncio.wait_for(found.wait(), PATIENCE_S)
        runner.gate.set()
        messages = await heard(connection, "executing")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                messages += [json.loads(message) async for message in connection]
    assert kinds(messages).count("execution_success") == 1


async def test_a_server_that_stops_says_so(runner, settings, tmp_path) -> None:
    """With the code of a restart, after which clients connect anew; the stop does not wait for them."""
    async with (
        served(runner, settings, memory_storage(tmp_path / "jobs")) as gateway,
        listening(gateway) as connection,
    ):
        await heard(connection, "status")
        gateway.server.should_exit = True
        await asyncio.wait_for(connection.wait_closed(), PATIENCE_S)
    assert connection.close_code == 1012


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Origin": "https://evil.example"}, 403), ({"Authorization": "Bearer no"}, 401), ({}, 401)],
)
async def test_who_may_not_listen_is_answered_over_http(runner, settings, tmp_path, headers, status) -> None:
    """With the status that any request would get."""
    keys = (ApiKey(sha256(b"alpha").hexdigest(), "alpha", is_admin=False),)
    settings: GatewaySettings = replace(settings, keys=keys)
    async with served(runner, settings, memory_storage(tmp_path / "jobs")) as gateway:
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with listening(gateway, additional_headers=headers):
                pass
        assert refused.value.response.status_code == status


async def test_other_paths_open_no_socket(runner, settings, tmp_path) -> None:
    """The offer is declined by an answer over HTTP."""
    async with served(runner, settings, memory_storage(tmp_path / "jobs")) as gateway:
        for path in ("/queue", "/nothing"):
            with pytest.raises(websockets.InvalidStatus):
                async with websockets.connect(f"ws://127.0.0.1:{gateway.port}{path}"):
                    pass
        assert (await gateway.client.get("/ws")).status_code == 404
