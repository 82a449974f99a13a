"""Server-sent events: previews, progress, the images, and errors early and late."""

import asyncio
import base64
import io
import json
import math

import pytest
from PIL import Image

from lego_serve.core.jobs.job import GeneratedImage, JobProgress
from lego_serve.core.scheduling.drain_pace import MEMORY_S
from lego_serve.errors import NodeError, RequestError

URL = "/v1/images/generations"
PREVIEW = GeneratedImage(8, 8, bytes(range(192)), 0)


def events(text: str) -> list[tuple[str, dict]]:
    """The events of a stream by name."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


async def test_previews_come_before_the_image(client, runner) -> None:
    """A partial image is an image of the full size; the completed event carries the image and our facts."""
    runner.progress = [JobProgress(0, 5, 20, 1.5, PREVIEW), JobProgress(0, 10, 20, 1.0, PREVIEW)]
    answer = await client.post(URL, json={"prompt": "a", "seed": 3, "stream": True, "partial_images": 2})
    assert answer.headers["content-type"].startswith("text/event-stream")
    received = events(answer.text)
    assert [name for name, _ in received] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [data["type"] for _, data in received] == [name for name, _ in received]
    assert [data["partial_image_index"] for _, data in received[:2]] == [0, 1]
    assert Image.open(io.BytesIO(base64.b64decode(received[0][1]["b64_json"]))).size == (128, 128)
    assert received[2][1]["lego"]["seed"] == 3
    assert received[2][1]["usage"]["total_tokens"] == 64


async def test_a_streams_job_is_known_from_its_headers_on(client, runner) -> None:
    """The job's id is made of the request's, which may be used again once the stream has ended."""
    for _ in range(2):
        body, headers = {"prompt": "a", "stream": True}, {"x-request-id": "abc-1"}
        answer = await client.post(URL, json=body, headers=headers)
        assert answer.headers["x-request-id"] == "abc-1"
        assert events(answer.text)[-1][1]["lego"]["job_id"] == "job_abc-1"


async def test_progress_events_come_only_when_asked_for(client, runner) -> None:
    """The job says what is listened to; its steps become events of our own."""
    runner.progress = [JobProgress(0, 5, 20, 1.5)]
    body = {"prompt": "a", "stream": True, "stream_progress": True}
    received = events((await client.post(URL, json=body)).text)
    assert received[0] == (
        "image_generation.progress",
        {"type": "image_generation.progress", "image_index": 0, "step": 5, "steps": 20, "eta_s": 1.5},
    )
    assert runner.jobs[0].stream.steps
    await client.post(URL, json={"prompt": "a", "stream": True})
    assert (runner.jobs[1].stream.steps, runner.jobs[1].stream.previews) == (False, 0)


async def test_every_image_of_several_is_an_event(client) -> None:
    """Three images, three completed events, each with its seed."""
    body = {"prompt": "a", "stream": True, "n": 3, "seed": 7}
    received = events((await client.post(URL, json=body)).text)
    assert [(name, data["seed"], data["lego"]["seed"], data["lego"]["image_index"]) for name, data in received] == [
        ("image_generation.completed", 7 + i, 7 + i, i) for i in range(3)
    ]


async def test_every_event_can_be_given_to_its_image(client, runner) -> None:
    """Previews say which image they show and count from 0 for each; finished images say it too."""
    order = [0, 2, 2, 1, 0]
    runner.progress = [JobProgress(index, 5, 20, 1.5, PREVIEW) for index in order]
    body = {"prompt": "a", "stream": True, "n": 3, "partial_images": 2}
    received = events((await client.post(URL, json=body)).text)
    counted = [(data["lego"]["image_index"], data.get("partial_image_index")) for _, data in received]
    assert counted == [(0, 0), (2, 0), (2, 1), (1, 0), (0, 1), (0, None), (1, None), (2, None)]


async def test_an_early_error_has_its_own_status(client, runner) -> None:
    """What fails before the first event is an ordinary refusal."""
    runner.error = RequestError("too long", param="prompt", code="prompt_too_long")
    answer = await client.post(URL, json={"prompt": "a", "stream": True})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "prompt_too_long"


async def test_a_late_error_is_an_event(client, runner) -> None:
    """What fails after the first event is told in OpenAI's shape, and the stream ends."""
    runner.progress = [JobProgress(0, 5, 20, 1.5, PREVIEW)]
    runner.error = NodeError("The denoising step failed.")
    received = events((await client.post(URL, json={"prompt": "a", "stream": True, "partial_images": 1})).text)
    assert [name for name, _ in received] == ["image_generation.partial_image", "error"]
    assert received[1][1]["error"]["code"] == "node_failed"


async def test_what_nobody_expected_ends_a_stream_too(client, runner, caplog) -> None:
    """It is logged and told as an event; the client does not wait for ever."""
    runner.progress = [JobProgress(0, 5, 20, 1.5, PREVIEW)]
    runner.error = ZeroDivisionError("secret")
    received = events((await client.post(URL, json={"prompt": "a", "stream": True, "partial_images": 1})).text)
    assert received[-1][1]["error"]["code"] == "internal_error"
    assert "secret" not in str(received)
    assert "ZeroDivisionError" in caplog.text


async def test_a_stream_is_counted_like_any_request(client, runner) -> None:
    """Afterwards nothing is in flight and the request is in the metrics."""
    await client.post(URL, json={"prompt": "a", "stream": True})
    page = (await client.get("/metrics")).text
    assert "lego_serve_requests_in_flight 0.0" in page
    assert 'lego_serve_requests_total{outcome="ok",workflow="lego-tiny"} 1.0' in page


@pytest.mark.parametrize(("path", "status"), [("r1", 200), ("r9", 404)])
async def test_a_replica_is_drained_by_its_id(client, path: str, status: int) -> None:
    """An operator moves a replica's calls; an unknown id is a 404."""
    assert (await client.get("/v1/admin/replicas")).json()["data"][0]["id"] == "r1"
    answer = await client.post(f"/v1/admin/replicas/{path}/drain")
    assert answer.status_code == status
    if status == 200:
        assert answer.json()["calls_moved"] == 3


async def test_a_stream_that_waits_for_its_first_step_says_when_it_is_expected_to_end(
    client, runner, monkeypatch
) -> None:
    """At the pace of what ended before, once the first event is long in coming; to those who asked for progress."""
    monkeypatch.setattr("lego_serve.gateway.stream.PATIENCE_S", 0.01)
    clock = [100.0]
    monkeypatch.setattr(runner, "now", lambda: clock[0])

    async def received(took_s: float, **more: object) -> list[tuple[str, dict]]:
        runner.gate = asyncio.Event()
        asked = asyncio.ensure_future(client.post(URL, json={"prompt": "a", "stream": True} | more))
        while not runner.waiting:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        clock[0] += took_s
        runner.gate.set()
        return events((await asked).text)

    known = await received(8.0, stream_progress=True)
    assert [name for name, _ in known] == ["image_generation.completed"]  # nothing had ended that would say anything
    name, told = (await received(0.0, stream_progress=True, num_inference_steps=12))[0]
    assert (name, told["image_index"], told["step"], told["steps"]) == ("image_generation.progress", 0, 0, 12)
    assert told["eta_s"] == pytest.approx(MEMORY_S * (1 - math.exp(-8 / MEMORY_S)), abs=0.001)
    assert [name for name, _ in await received(0.0)] == ["image_generation.completed"]
