"""Uploads before they are jobs: their places, their bytes and their turns."""

import asyncio
import base64
import io
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from lego_serve.gateway.media.codec import decode_sized_upload, decode_upload
from lego_serve.gateway.settings import ApiKey
from tests.support.gateway.client import another, error_of, file_of

EDITS, IMAGES, TEMPLATES = "/v1/images/edits", "/v1/images/generations", "/v1/templates"
GAUGE = "lego_serve_requests_in_flight "
Send = Callable[[httpx2.AsyncClient, bytes], Coroutine[Any, Any, httpx2.Response]]


def noise() -> bytes:
    """An image of 900 kB."""
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (500, 600, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


async def edit(client: httpx2.AsyncClient, image: bytes) -> httpx2.Response:
    """Post an edit of an image as a whole."""
    return await client.post(EDITS, data={"prompt": "a"}, files={"image": image})


async def register(client: httpx2.AsyncClient, image: bytes) -> httpx2.Response:
    """Post a template."""
    return await client.post(TEMPLATES, files={"image": image})


async def control(client: httpx2.AsyncClient, image: bytes) -> httpx2.Response:
    """Post a generation with a control image."""
    use = {"name": "edges", "image": base64.b64encode(image).decode()}
    return await client.post(IMAGES, json={"prompt": "a", "controlnet": [use]})


SENDS: dict[str, Send] = {"edit": edit, "template": register, "generation": control}


class Decoder:
    """Decodes as the gateway does, each time after the gate has opened."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun: list[bytes] = []

    def decode(self, data: bytes, *args: Any) -> Image.Image:
        """Decode colours."""
        self.begun.append(data)
        assert self.gate.wait(60)
        return decode_upload(data, *args)

    def decode_sized(self, data: bytes, *args: Any) -> tuple[Image.Image, tuple[int, int]]:
        """Decode colours and tell the size."""
        self.begun.append(data)
        assert self.gate.wait(60)
        return decode_sized_upload(data, *args)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    """What the routes decode with."""
    decoder = Decoder()
    gateway = "lego_serve.gateway"
    monkeypatch.setattr(f"{gateway}.requests.edits.decode_sized_upload", decoder.decode_sized)
    monkeypatch.setattr(f"{gateway}.routes.templates.decode_upload", decoder.decode)
    monkeypatch.setattr(f"{gateway}.requests.addons.decode_upload", decoder.decode)
    yield decoder
    decoder.gate.set()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something."""
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.01)


async def pending(client: httpx2.AsyncClient) -> int:
    """The places that are taken."""
    page = (await client.get("/metrics")).text
    return next(int(float(line.split()[1])) for line in page.splitlines() if line.startswith(GAUGE))


async def until_pending(client: httpx2.AsyncClient, count: int) -> None:
    """Wait until so many places are taken."""
    async with asyncio.timeout(60):
        while await pending(client) != count:
            await asyncio.sleep(0.01)


async def answered(burst: list[asyncio.Future[httpx2.Response]], count: int) -> list[tuple[int, str, str | None]]:
    """The refusals among a burst, once so many have come and no more do."""
    await until(lambda: sum(request.done() for request in burst) >= count)
    await asyncio.sleep(0.05)
    return [error_of(request.result()) for request in burst if request.done()]


@pytest.mark.parametrize("kind", SENDS)
async def test_a_place_is_reserved_before_anything_is_decoded(client, decoder, kind) -> None:
    """Of 24 uploads two are admitted; the others are refused while the first is being decoded, and none is read."""
    burst = [asyncio.ensure_future(SENDS[kind](client, file_of())) for _ in range(24)]
    assert await answered(burst, 22) == [(429, "over_capacity", None)] * 22
    await until(lambda: len(decoder.begun) > 0)
    assert len(decoder.begun) == 1
    decoder.gate.set()
    codes = [(await request).status_code for request in burst]
    assert sum(code in (200, 201) for code in codes) == 2
    assert len(decoder.begun) == 2
    assert (await SENDS[kind](client, file_of())).status_code == 200


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_the_place_of_an_upload_is_that_of_its_job(client, runner, is_streamed: bool) -> None:
    """It is held once, from before decoding to the job's end, and is free again then."""
    runner.gate, burst = asyncio.Event(), []
    for _ in range(2):
        fields = {"prompt": "a", "stream": str(is_streamed).lower()}
        burst.append(asyncio.ensure_future(client.post(EDITS, data=fields, files={"image": file_of()})))
    await until(lambda: len(runner.waiting) == 2)
    assert error_of(await edit(client, file_of())) == (429, "over_capacity", None)
    runner.gate.set()
    assert [(await request).status_code for request in burst] == [200, 200]
    await until_pending(client, 0)


async def test_an_edit_that_changes_nothing_needs_one_place_and_gives_it_back(runner, settings) -> None:
    """Of one place there are ten such edits in a row, without a job; what cannot be decoded gives it back as well."""
    out = io.BytesIO()
    Image.new("RGBA", (128, 96)).save(out, "PNG")
    opaque = io.BytesIO()
    Image.new("RGBA", (128, 96), (0, 0, 0, 255)).save(opaque, "PNG")
    async with another(runner, replace(settings, max_pending_jobs=1)) as client:
        for _ in range(10):
            files = {"image": out.getvalue(), "mask": opaque.getvalue()}
            assert (await client.post(EDITS, data={"prompt": "a"}, files=files)).status_code == 200
            assert error_of(await edit(client, b"no image"))[:2] == (400, "invalid_image")
            assert error_of(await register(client, b"no image"))[:2] == (400, "invalid_image")
        assert runner.jobs == []
        await until_pending(client, 0)


@pytest.mark.parametrize("kind", SENDS)
async def test_the_bytes_of_an_upload_count_until_it_is_decoded(runner, settings, decoder, kind) -> None:
    """While one is being decoded the others wait within the bound of bodies; jobs that run count no longer."""
    templates = replace(settings.templates, tenant_bytes=10_000_000)
    roomy = replace(settings, max_pending_jobs=50, max_body_bytes=1_300_000, templates=templates)
    runner.gate, image = asyncio.Event(), noise()
    async with another(runner, roomy) as client:
        held, refused = list[asyncio.Future[httpx2.Response]](), list[httpx2.Response]()
        for _ in range(12):
            one = asyncio.ensure_future(SENDS[kind](client, image))
            async with asyncio.timeout(60):
                while not one.done() and await pending(client) == len(held):
                    await asyncio.sleep(0.01)
            if one.done():
                refused.append(await one)
            else:
                held.append(one)
        assert {error_of(answer) for answer in refused} == {(429, "bodies_over_capacity", None)}
        assert 1 <= len(held) <= 4 * 1_300_000 // len(image)
        await until(lambda: len(decoder.begun) > 0)
        assert len(decoder.begun) == 1
        decoder.gate.set()
        await until(lambda: len(runner.waiting) + sum(request.done() for request in held) == len(held))
        again = asyncio.ensure_future(SENDS[kind](client, image))
        await until(lambda: len(decoder.begun) == len(held) + 1)
        runner.gate.set()
        assert {answer.status_code for answer in await asyncio.gather(again, *held)} <= {200, 201}


async def test_a_small_upload_waits_for_one_large_one_of_another_tenant(runner, settings, decoder) -> None:
    """Whoever sent 24 before: the second to be decoded is the other tenant's."""
    keys = tuple(ApiKey(sha256(name.encode()).hexdigest(), name, is_admin=False) for name in ("alpha", "beta"))
    shared = replace(settings, keys=keys, max_pending_jobs=90)
    large, small = file_of(0, (1024, 1024)), file_of(1)
    async with another(runner, shared, "alpha") as client:
        many = [asyncio.ensure_future(edit(client, large)) for _ in range(24)]
        await until_pending(client, 24)
        files = {"image": small}
        theirs = {"authorization": "Bearer beta"}
        one = asyncio.ensure_future(client.post(EDITS, data={"prompt": "a"}, files=files, headers=theirs))
        await until_pending(client, 25)
        decoder.gate.set()
        assert (await one).status_code == 200
        assert [(await request).status_code for request in many] == [200] * 24
        assert decoder.begun.index(small) == 1
