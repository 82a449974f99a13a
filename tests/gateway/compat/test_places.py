"""A place comes before any image of a foreign request is decoded: a full gateway decodes none, right or wrong."""

import asyncio
import base64
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import file_of, mask_of
from tests.support.gateway.comfyui import memory_storage
from tests.support.gateway.durable import wait_until
from tests.support.gateway.runner import FakeRunner
from tests.support.graphs import image_to_image, masked_edit


def damaged(png: bytes) -> bytes:
    """An image of right chunks: only whoever decodes its pixels finds that they are none."""
    begin, end = png.index(b"IDAT"), png.index(b"IEND") - 8
    chunk = b"IDAT" + bytes(end - begin - 4)
    return png[:begin] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + png[end + 4 :]


DAMAGED = damaged(mask_of())


@pytest.fixture
async def client(runner: FakeRunner, settings: GatewaySettings, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a gateway with a store."""
    app = create_app(runner, runner, settings, Metrics(), storage=memory_storage(tmp_path / "jobs"))
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client,
    ):
        yield client


async def of_a1111(client: httpx2.AsyncClient) -> httpx2.Response:
    """An edit whose mask is damaged."""
    image, mask = (base64.b64encode(data).decode() for data in (file_of(9), DAMAGED))
    body = {"prompt": "a", "width": 128, "height": 96, "init_images": [image], "mask": mask}
    return await client.post("/sdapi/v1/img2img", json=body)


async def of_comfyui(client: httpx2.AsyncClient) -> httpx2.Response:
    """A prompt whose image is damaged, which is its mask as well."""
    return await client.post("/prompt", json={"prompt": masked_edit()})


async def of_image_to_image(client: httpx2.AsyncClient) -> httpx2.Response:
    """A prompt whose image is damaged."""
    return await client.post("/prompt", json={"prompt": image_to_image()})


async def of_an_upload(client: httpx2.AsyncClient) -> httpx2.Response:
    """A mask for an image that is there already."""
    reference = json.dumps({"filename": "photo.png", "type": "input"})
    return await client.post("/upload/mask", files={"image": ("m.png", DAMAGED)}, data={"original_ref": reference})


@pytest.mark.parametrize("ask", [of_a1111, of_comfyui, of_image_to_image, of_an_upload])
async def test_an_image_is_decoded_in_a_place(client, runner, settings, ask) -> None:
    """Without one the request is told to come again; with one, that its image is damaged, and the place is free."""
    upload = await client.post("/upload/image", files={"image": ("photo.png", DAMAGED)})
    assert upload.status_code == 200, upload.text
    runner.gate = asyncio.Event()
    body = {"prompt": "a"}
    places = range(settings.max_pending_jobs)
    waiting = [asyncio.ensure_future(client.post("/v1/images/generations", json=body)) for _ in places]
    await wait_until(lambda: len(runner.waiting) == len(places))
    full = await ask(client)
    assert (full.status_code, "retry-after" in full.headers) == (429, True), full.text
    runner.gate.set()
    await asyncio.gather(*waiting)
    for _ in range(len(places) + 1):
        assert (await ask(client)).status_code == 400
    assert (await client.post("/v1/images/generations", json=body)).status_code == 200
