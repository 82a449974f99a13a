"""Images that carry more than pixels: taken for what they show, at the cost of pixels and of one look at the file."""

import io
import struct
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from lego_serve.gateway.media.codec import decode_upload
from lego_serve.gateway.media.masks import decode_mask
from lego_serve.gateway.media.strip_metadata import TooManyParts, exif_orientation, strip_metadata
from lego_serve.gateway.settings import GatewaySettings
from tests.support.gateway.images import NEITHER, NOISE, SIZE, chunk, file_of, good, laden_jpeg
from tests.support.gateway.laden import LADEN, LADEN_PNG, exif_segment, laden_png, overlapping

MOST = 1_000_000
ROOM_BYTES = 4_000_000  # beside copies of the file: the pixels, and what Pillow and Python need
NOISY = Image.fromarray(NOISE[..., :3])


@pytest.fixture
def settings() -> GatewaySettings:
    """Bodies large enough for what is sent here."""
    return GatewaySettings("lego-tiny", max_body_bytes=8_000_000, max_image_pixels=MOST)


@pytest.mark.parametrize("name", LADEN)
def test_what_an_image_carries_is_neither_unpacked_nor_kept(name: str) -> None:
    """However much it claims to be; nor does Pillow warn of it, which would fill the log, and memory with each."""
    data = LADEN[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracemalloc.start()
        try:
            image = decode_upload(data, MOST)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        started = time.process_time()  # by itself: tracing takes ten times as long
        decode_upload(data, MOST)
        took_s = time.process_time() - started
    ground = 255 if name in LADEN_PNG else 0  # those are transparent
    assert (image.size, image.mode, image.getextrema()) == (SIZE, "RGB", ((ground, ground),) * 3)
    assert peak < 3 * len(data) + ROOM_BYTES
    assert took_s < 2


@pytest.mark.parametrize("name", LADEN_PNG)
def test_a_mask_that_carries_more_is_a_mask(name: str) -> None:
    """Transparent everywhere, as its pixels are."""
    assert decode_mask(LADEN_PNG[name], SIZE, MOST).all()


@pytest.mark.parametrize("name", ["iTXt of 40 MB in 40 kB", "Exif data that overlaps", "sixty texts of a megabyte"])
async def test_an_edit_of_such_an_image_by_such_a_mask(client, runner, name: str) -> None:
    """Over HTTP; nothing of it goes on to the job."""
    files = {"image": LADEN_PNG[name], "mask": LADEN_PNG[name]}
    answer = await client.post("/v1/images/edits", files=files, data={"prompt": "a"})
    assert answer.status_code == 200, answer.text
    edit = runner.jobs[0].inputs["edit"]
    assert np.asarray(edit.pixels).nbytes == 3 * SIZE[0] * SIZE[1]
    assert (np.asarray(edit.weight) == 255).all()


@pytest.mark.parametrize("name", ["PNG of 70000 chunks", "JPEG of 70000 comments"])
def test_a_file_of_too_many_parts_is_refused_soon(name: str) -> None:
    """Before any of them is looked into."""
    started = time.process_time()
    with pytest.raises(TooManyParts):
        strip_metadata(NEITHER[name])
    assert time.process_time() - started < 1


def held(turn: int, order: str = "<", kind: int = 3) -> bytes:
    """Exif data that says how a camera was held, after an entry of another kind."""
    name, letter = {"<": b"II*\0", ">": b"MM\0*"}[order], {3: "HH", 4: "L"}[kind]
    value = struct.pack(order + letter, *(turn, 0)[: len(letter)])
    entries = struct.pack(order + "HHL4s", 0x0100, 3, 1, bytes(4)) + struct.pack(order + "HHL", 0x0112, kind, 1) + value
    return name + struct.pack(order + "LH", 8, 2) + entries + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("turn", range(10))
def test_images_are_turned_as_pillow_turns_them(turn: int, order: str) -> None:
    """In every format and byte order, and not at all by numbers that say nothing."""
    exif = held(turn, order)
    made = (
        laden_jpeg(exif_segment(exif)),
        file_of(NOISY, "JPEG", exif=b"Exif\0\0" + exif),
        file_of(NOISY, "PNG", exif=exif),
        file_of(NOISY, "WEBP", lossless=True, exif=exif),
        file_of(NOISY, "WEBP", lossless=True, exif=b"Exif\0\0" + exif),
    )
    for data in made:
        wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        assert decode_upload(data, MOST).tobytes() == wanted.tobytes()
        assert decode_upload(data, MOST).size == (SIZE if turn in (0, 1, 2, 3, 4, 9) else SIZE[::-1])
    assert exif_orientation(held(turn, order, 4)) == exif_orientation(exif)


def test_only_the_first_exif_data_counts() -> None:
    """As with whoever else reads the file."""
    two = exif_segment(held(6)) + exif_segment(held(3))
    assert strip_metadata(laden_jpeg(two)).orientation == 6
    assert strip_metadata(laden_png(chunk(b"eXIf", held(8)) + chunk(b"eXIf", held(3)))).orientation == 8


@given(st.binary(max_size=200), st.integers(0, 70))
def test_no_exif_data_is_beyond_reading(data: bytes, cut: int) -> None:
    """It says one of eight things, cut off or made up."""
    for exif in (data, b"II*\0" + data, b"MM\0*\0\0\0\x08" + data, held(6)[:cut], overlapping(5, 10)[:cut]):
        assert 1 <= exif_orientation(exif) <= 8


@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.data())
def test_damage_anywhere_is_left_to_the_decoder(form: str, data: st.DataObject) -> None:
    """Whatever bytes are changed, cut off or put in, the walk over a file ends and makes it no longer."""
    whole = bytearray(good("RGB", form))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    changed = bytes(whole[: data.draw(st.integers(1, len(whole)))])
    found = strip_metadata(changed)
    assert len(found.data) <= len(changed)
    assert 1 <= found.orientation <= 8


@pytest.mark.parametrize(
    ("mode", "form"), [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("1", "PNG")]
)
def test_what_makes_up_pixels_is_left(mode: str, form: str) -> None:
    """Tables, palettes, and what tells four colours from their opposites."""
    source = NOISY.convert(mode)
    for options in ({}, {"progressive": True}, {"icc_profile": b"none", "dpi": (300, 300)}):
        data = file_of(source, form, **options)
        wanted = Image.open(io.BytesIO(data)).convert("RGB")
        assert decode_upload(data, MOST).tobytes() == wanted.tobytes()
