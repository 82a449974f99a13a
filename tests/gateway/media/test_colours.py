"""What colours an upload has: by its transparency, its profile, and its size."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from lego_serve.errors import RequestError
from lego_serve.gateway.media.codec import decode_sized_upload, decode_upload
from lego_serve.gateway.media.colours import BLACK, MAX_PROFILE_BYTES, WHITE
from lego_serve.gateway.media.strips import alpha_of, reduced

MOST = 52_000_000


def file_of(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """Return a file of an image."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def exchanged_profile() -> bytes:
    """Return the profile of sRGB with red and green exchanged."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">L", data, 128)
    tags = {bytes(data[at : at + 4]): at + 4 for at in range(132, 132 + 12 * count, 12)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    data[red : red + 8], data[green : green + 8] = data[green : green + 8], data[red : red + 8]
    return bytes(data)


def colour_of(data: bytes, ground: tuple[int, int, int] = WHITE) -> tuple[int, ...]:
    """Return the colour of an upload's first pixel."""
    return tuple(map(int, np.asarray(decode_upload(data, MOST, ground))[0, 0]))


@pytest.mark.parametrize("ground", [BLACK, WHITE])
@pytest.mark.parametrize("beneath", [0, 90, 255])
def test_what_lies_under_transparency_does_not_show(beneath: int, ground: tuple[int, int, int]) -> None:
    """In every mode and format that has transparency."""
    colour = Image.new("RGBA", (8, 8), (beneath, 7, beneath, 0))
    grey = Image.new("L", (8, 8), beneath)
    files = [
        file_of(colour),
        file_of(colour, "WEBP", lossless=True, exact=True),
        file_of(Image.merge("LA", (grey, Image.new("L", (8, 8), 0)))),
        file_of(grey, transparency=beneath),
        file_of(grey.convert("RGB"), transparency=(beneath,) * 3),
        file_of(grey.convert("P"), transparency=beneath),
    ]
    assert [colour_of(data, ground) for data in files] == [ground] * len(files)


def test_what_is_half_transparent_lies_half_on_the_ground() -> None:
    """Composed, as a viewer would."""
    assert colour_of(file_of(Image.new("RGBA", (8, 8), (200, 0, 0, 51))), BLACK) == (40, 0, 0)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(64, 64), (4800, 4000)])
def test_colours_are_those_that_the_profile_means(form: str, size: tuple[int, int]) -> None:
    """Also where the image is scaled down."""
    image, options = Image.new("RGB", size, (200, 60, 40)), {"method": 0} if form == "WEBP" else {}
    red, green, _ = colour_of(file_of(image, form, icc_profile=exchanged_profile(), **options))
    assert green > 150 > 100 > red


def test_profiles_that_are_no_profiles_are_passed_over() -> None:
    """Junk, a profile of other colours, one cut short, one that is too large: the numbers stay."""
    image, good = Image.new("RGB", (8, 8), (200, 60, 40)), exchanged_profile()
    for profile in (b"junk", good[:200], good.replace(b"RGB ", b"CMYK"), good + bytes(MAX_PROFILE_BYTES), good[:132]):
        for form in ("PNG", "JPEG"):
            assert max(np.abs(np.subtract(colour_of(file_of(image, form, icc_profile=profile)), (200, 60, 40)))) <= 2


@pytest.mark.parametrize(("form", "size"), [("JPEG", (5712, 4284)), ("JPEG", (8064, 6048)), ("PNG", (8192, 6144))])
def test_photos_of_telephones_are_scaled_down(form: str, size: tuple[int, int]) -> None:
    """Upright, and with the size that they had, which a mask must have too."""
    turned = Image.Exif()
    turned[0x0112] = 6
    image, (width, height) = decode_sized_upload(file_of(Image.new("L", size, 9), form, exif=turned), MOST)
    assert (width, height) == size[::-1]
    assert image.width * image.height <= 16_000_000
    assert image.width / image.height == pytest.approx(width / height, rel=0.01)


def test_scaling_by_strips_is_scaling() -> None:
    """Pixel for pixel, also where strips do not go into the image, and with transparency."""
    image = Image.effect_noise((2050, 1531), 90)
    image = Image.merge("RGBA", (image, image.rotate(180), image, image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)))
    assert reduced(image, 4).tobytes() == image.reduce(4).tobytes()
    assert alpha_of(image).tobytes() == image.getchannel("A").tobytes()


@pytest.mark.parametrize("size", [(16_000_000, 1), (1, 16_000_000), (16_385, 16), (8192, 1)])
def test_thin_images_are_refused_by_their_sides(size: tuple[int, int]) -> None:
    """Before a pixel is decoded, with the numbers."""
    with pytest.raises(RequestError, match=f"is {size[0]}x{size[1]}; no side may"):
        decode_upload(file_of(Image.new("L", size)), MOST)
