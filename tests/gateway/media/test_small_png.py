"""The quick PNG files of small images are files like any others."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lego_serve.core.jobs.job import GeneratedImage
from lego_serve.gateway.media import codec
from lego_serve.gateway.media.codec import encode_file, is_quick
from lego_serve.gateway.media.small_png import encode_small_png


@st.composite
def images(draw: st.DrawFn) -> tuple[int, int, bytes]:
    """Width, height and pixels."""
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    some = draw(st.binary(min_size=3, max_size=3 * width * height))
    return width, height, (some * (width * height))[: 3 * width * height]


@given(images(), st.text(st.characters(max_codepoint=255, exclude_characters="\0"), max_size=20))
def test_the_pixels_and_the_texts_are_those_that_were_given(image: tuple[int, int, bytes], text: str) -> None:
    """As another library reads them."""
    width, height, rgb = image
    with Image.open(io.BytesIO(encode_small_png(width, height, rgb, {"seed": "7", "note": text}))) as read:
        read.load()
        assert (read.format, read.mode, read.size) == ("PNG", "RGB", (width, height))
        assert read.tobytes() == rgb
        assert read.text == {"seed": "7", "note": text}  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [0, 3 * 64 - 1, 3 * 64 + 1])
def test_pixels_that_are_too_few_or_too_many_are_refused(count: int) -> None:
    """A file of them would be damaged."""
    with pytest.raises(ValueError, match="8 x 8"):
        encode_small_png(8, 8, bytes(count), {})


@pytest.mark.parametrize("request_text", [None, '{"path": "/v1/images/generations"}'])
@pytest.mark.parametrize("side", [128, 136])
def test_a_file_says_the_same_whichever_way_it_is_made(side: int, request_text: str | None) -> None:
    """Small or not, and with a request or without."""
    image = GeneratedImage(side, side, (bytes(range(256)) * 217)[: 3 * side * side], 9)
    with Image.open(io.BytesIO(encode_file(image, "png", None, request_text))) as read:
        assert read.tobytes() == image.rgb
        assert read.text["seed"] == "9"  # type: ignore[attr-defined]
        assert read.text.get("lego_serve") == request_text  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("side", "image_format", "quick"),
    [(128, "png", True), (128, "jpeg", True), (128, "webp", False), (136, "png", False), (136, "jpeg", False)],
)
def test_only_small_files_are_made_without_a_thread(side: int, image_format: str, quick: bool) -> None:
    """A lossless WebP takes ten times as long as the others."""
    assert is_quick(GeneratedImage(side, side, b"", 0), image_format) is quick
    assert codec.SMALL_PIXELS == 128 * 128
