"""Streams of requests with an `Idempotency-Key`: told of a durable job, and the same to OpenAI's SDK as any stream."""

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from openai.types import ImageEditPartialImageEvent, ImageGenPartialImageEvent
from PIL import Image

from lego_serve.core.jobs.job import GeneratedImage, JobProgress
from lego_serve.errors import RequestError
from lego_serve.gateway.settings import GatewaySettings
from tests.support.gateway.client import file_of
from tests.support.gateway.durable import Cluster, wait_until
from tests.support.gateway.runner import FakeRunner

IMAGES = "/v1/images/generations"
KEY = {"idempotency-key": "k"}
BODY = {"prompt": "a", "n": 2, "stream": True, "partial_images": 2}
FORM = {name: str(value).lower() for name, value in BODY.items()}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """One store."""
    return Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny"))


@pytest.mark.parametrize(
    ("path", "event", "asked"),
    [
        ("generations", ImageGenPartialImageEvent, {"json": BODY}),
        ("edits", ImageEditPartialImageEvent, {"data": FORM, "files": {"image": file_of()}}),
    ],
    ids=["generations", "edits"],
)
async def test_a_preview_has_every_field_that_openais_event_has(
    cluster: Cluster, path: str, event: Any, asked: dict[str, Any]
) -> None:
    """Its format and size are those of the file in it, and previews of each image are counted apart."""
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    preview = GeneratedImage(12, 16, bytes(3 * 12 * 16), 0)
    async with cluster.gateway(runner) as gateway:
        jobs = gateway.app.state.jobs
        answering = asyncio.ensure_future(gateway.client.post(f"/v1/images/{path}", headers=KEY, **asked))
        await wait_until(lambda: bool(runner.waiting))
        [job_id] = jobs.worker.running
        await wait_until(lambda: jobs.is_watched(job_id))
        attempt, [watcher] = jobs.worker.attempt(job_id), jobs._parts.watchers._watchers[job_id]
        for step in (10, 20):
            for lane in (0, 1):
                attempt.note(JobProgress(lane, step, 28, 1.0, preview))
            await wait_until(lambda: not attempt._previews and not watcher._previews)  # who is slow misses one
        runner.gate.set()
        blocks = [block.split("\n") for block in (await answering).text.strip().split("\n\n")]
    partial = [json.loads(data.removeprefix("data: ")) for name, data in blocks if name.endswith("partial_image")]
    told = [event.model_validate(each) for each in partial]
    for each in told:
        with Image.open(io.BytesIO(base64.b64decode(each.b64_json))) as image:
            assert (image.size, image.format) == ((96, 128), "JPEG")
        assert (each.size, each.output_format, each.quality, each.background) == ("96x128", "jpeg", "high", "opaque")
    counted = sorted((each["lego"]["image_index"], each["partial_image_index"]) for each in partial)
    assert counted == [(0, 0), (0, 1), (1, 0), (1, 1)]


async def test_a_stream_with_a_key_tells_of_the_job_and_a_repeat_of_its_end(cluster: Cluster) -> None:
    """The images are the same, and made once."""
    body = {"prompt": "a", "stream": True, "partial_images": 1}
    async with cluster.gateway() as gateway:
        ends = []
        for _ in range(2):
            answer = await gateway.client.post(IMAGES, json=body, headers=KEY)
            assert answer.headers["content-type"].startswith("text/event-stream")
            name, data = answer.text.strip().split("\n\n")[-1].split("\n")
            assert name == "event: image_generation.completed"
            ends.append(json.loads(data.removeprefix("data: "))["b64_json"])
        assert ends[0] == ends[1]
        assert len(gateway.runner.jobs) == 1


async def test_a_stream_of_a_job_that_fails_ends_with_its_error(cluster: Cluster) -> None:
    """In the form that OpenAI's SDK raises."""
    runner = FakeRunner()
    runner.error = RequestError("`prompt` has 60 tokens.", param="prompt", code="prompt_too_long")
    async with cluster.gateway(runner) as gateway:
        answer = await gateway.client.post(IMAGES, json={"prompt": "a", "stream": True}, headers=KEY)
        name, data = answer.text.strip().split("\n\n")[-1].split("\n")
        assert (name, json.loads(data.removeprefix("data: "))["error"]["code"]) == ("event: error", "prompt_too_long")
