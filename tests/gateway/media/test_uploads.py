"""Images nobody should send, as the image and as the mask of an edit: what is refused, how, and what stays behind."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.images import (
    NEITHER,
    NO_MASK,
    SIZE,
    commented,
    file_of,
    good,
    palette,
    polyglot,
    scanned,
    turned,
    two_in_one,
)
from tests.support.gateway.runner import FakeRunner

URL = "/v1/images/edits"
LIBRARY_WORDS = ("PIL", "Pillow", "Traceback", "identify", "buffer", "chunk", "zlib", "libwebp", "0x", "/tmp", ".py")


@pytest.fixture(scope="module")
def shared_runner() -> FakeRunner:
    """The runner behind the one gateway of all tests here."""
    return FakeRunner()


@pytest.fixture(scope="module")
def app(shared_runner: FakeRunner) -> FastAPI:
    """One that takes bodies large enough that uploads go through a temporary file, and few pixels."""
    settings = GatewaySettings("lego-tiny", max_body_bytes=8_000_000, max_image_pixels=1_000_000)
    return create_app(shared_runner, shared_runner, settings, Metrics())


@pytest.fixture
def runner(shared_runner: FakeRunner) -> FakeRunner:
    """It, without the jobs of the tests before."""
    shared_runner.jobs.clear()
    return shared_runner


@pytest.fixture
async def refused(client, runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Sends an edit that must be refused because of one of its files, and looks at what it leaves."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    async def send(param: str, files: dict[str, bytes], **fields: str) -> str:
        before = len(os.listdir("/proc/self/fd"))
        answer = await client.post(URL, files=files, data={"prompt": "a"} | fields)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_image", param), error
        assert error["type"] == "invalid_request_error"
        assert error["message"].startswith(f"`{param}` ")
        assert not [word for word in LIBRARY_WORDS if word in answer.text]
        assert runner.jobs == []
        assert list(tmp_path.iterdir()) == []
        assert len(os.listdir("/proc/self/fd")) <= before
        assert "lego_serve_requests_in_flight 0.0" in (await client.get("/metrics")).text
        return str(error["message"])

    return send


async def test_a_progressive_jpeg_is_an_image(client, runner) -> None:
    """As cameras and browsers make them, of a few scans."""
    answer = await client.post(URL, files={"image": scanned(3)}, data={"prompt": "a"})
    assert answer.status_code == 200, answer.text
    assert len(runner.jobs) == 1


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NEITHER)
async def test_what_is_no_image_is_no_image(refused, name: str, masked: bool, stream: str) -> None:
    """With a sound mask or none, streamed or not: 400, in words of ours, and nothing is left behind."""
    await refused("image", {"image": NEITHER[name]} | ({"mask": good()} if masked else {}), stream=stream)


@pytest.mark.parametrize("name", NEITHER | NO_MASK)
async def test_what_is_no_image_or_has_no_alpha_is_no_mask(refused, name: str) -> None:
    """However sound its image is."""
    await refused("mask", {"image": good("RGB"), "mask": (NEITHER | NO_MASK)[name]})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PNG of 60000 a side", "has more than 1000000 pixels"),
        ("PNG of 9400 a side", "has more than 1000000 pixels"),
        ("PNG a little over the limit", "has more than 1000000 pixels"),
        ("APNG", "must not be animated"),
        ("16 bits, colour and alpha", "must have 8 bits a channel"),
        ("16 bits, grey", "must have 8 bits a channel"),
        ("truncated in its pixels", "is damaged and cannot be decoded"),
        ("broken pixels", "is damaged and cannot be decoded"),
        ("GIF", "must be a PNG"),
        ("zero bytes", "must be a PNG"),
    ],
)
async def test_the_words_say_what_is_wrong(refused, name: str, message: str) -> None:
    """Of an image and of a mask alike."""
    assert message in await refused("image", {"image": NEITHER[name]})
    assert message in await refused("mask", {"image": good("RGB"), "mask": NEITHER[name]})


async def test_a_mask_of_another_size_hears_both_sizes(refused) -> None:
    """Its own and the image's."""
    message = await refused("mask", {"image": good("RGB"), "mask": NO_MASK["turned against its image"]})
    assert "96x128" in message
    assert "128x96" in message


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (file_of(Image.new("RGB", SIZE, "red")), (255, 0, 0)),
        (file_of(Image.new("RGB", SIZE, "red"), "WEBP", lossless=True), (255, 0, 0)),
        (file_of(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "JPEG"), (254, 0, 0)),
        (file_of(palette(), transparency=1), (255, 255, 255)),
        (file_of(palette(), transparency=b"\xff\x80"), (255, 127, 127)),
        (file_of(Image.new("RGBA", SIZE, (255, 0, 0, 0))), (255, 255, 255)),
        (file_of(Image.new("LA", SIZE, (90, 7))), (250, 250, 250)),
        (file_of(Image.new("L", SIZE, 90)), (90, 90, 90)),
        (file_of(Image.new("1", SIZE, 1)), (255, 255, 255)),
        (file_of(Image.new("L", (1, 1), 90)), (90, 90, 90)),
        (file_of(Image.new("L", (1, 4000), 90)), (90, 90, 90)),
        (two_in_one(), (254, 0, 0)),
        (polyglot(), (255, 255, 255)),
        (commented(), (255, 255, 255)),
    ],
    ids=[
        "PNG", "WebP", "CMYK JPEG", "palette, a colour transparent", "palette, half transparent", "transparent",
        "grey and alpha", "grey", "one bit", "one pixel", "one column", "two in one JPEG", "PNG and ZIP",
        "junk for profile and dates",
    ],
)  # fmt: skip
async def test_odd_images_become_plain_ones(client, runner, data: bytes, colour: tuple[int, int, int]) -> None:
    """What can be shown is taken, 8 bits of red, green and blue on white; all else in the file is dropped."""
    answer = await client.post(URL, files={"image": data}, data={"prompt": "a"})
    assert answer.status_code == 200, answer.text
    pixels = runner.jobs[0].inputs["image"].pixels
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - colour).max() <= 1
    assert b"script" not in answer.content


async def test_an_image_and_its_mask_are_turned_as_their_camera_says(client, runner) -> None:
    """Both, so that they lie on each other as they do where they are looked at."""
    exif = Image.Exif()
    exif[0x0112] = 6
    mask = Image.new("RGBA", SIZE, "black")
    mask.paste((0, 0, 0, 0), (0, 0, 20, SIZE[1]))
    files = {"image": turned(), "mask": file_of(mask, exif=exif)}
    answer = await client.post(URL, files=files, data={"prompt": "a", "mask_feather": "0"})
    assert answer.status_code == 200, answer.text
    inputs = runner.jobs[0].inputs
    assert (inputs["width"], inputs["height"]) == (96, 128)
    assert (np.asarray(inputs["edit"].pixels)[:18] == (255, 0, 0)).all()
    assert (np.asarray(inputs["edit"].weight)[:20] == 255).all()
    assert not np.asarray(inputs["edit"].weight)[20:].any()


@pytest.mark.parametrize(
    "data",
    [
        file_of(palette(), transparency=1),
        file_of(Image.new("L", SIZE, 7), transparency=7),
        file_of(Image.new("RGB", SIZE, "red"), transparency=(255, 0, 0)),
        file_of(Image.new("LA", SIZE, (7, 0))),
        polyglot(),
        commented(),
    ],
    ids=["palette", "a grey", "a colour", "grey and alpha", "PNG and ZIP", "junk for profile and dates"],
)
async def test_whatever_makes_a_pixel_transparent_masks_it(client, runner, data: bytes) -> None:
    """An alpha channel, or a colour that is none."""
    answer = await client.post(URL, files={"image": good("RGB"), "mask": data}, data={"prompt": "a"})
    assert answer.status_code == 200, answer.text
    assert (np.asarray(runner.jobs[0].inputs["edit"].weight) == 255).all()


async def test_a_name_or_type_that_lies_changes_nothing(client, runner) -> None:
    """What a file is, its content says; a path in its name is no path."""
    files = {"image": ("../../etc/passwd.gif", good("RGB", "JPEG"), "image/svg+xml")}
    assert (await client.post(URL, files=files, data={"prompt": "a"})).status_code == 200
    assert len(runner.jobs) == 1
