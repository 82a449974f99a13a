"""Opens uploads, whatever they really are: checks headers before a pixel is decoded, then turns images upright.

What a file carries besides pixels and a colour profile (comments, thumbnails, another file behind it) is dropped
unread.
"""

import io
from dataclasses import dataclass

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from lego_serve.errors import RequestError
from lego_serve.gateway.media.colours import WHITE, Ground, to_srgb
from lego_serve.gateway.media.strip_metadata import (
    MAX_PARTS,
    StrippedImage,
    TooManyParts,
    exif_orientation,
    strip_metadata,
)
from lego_serve.gateway.media.strips import alpha_of, reduced

IHDR = slice(12, 16)  # the name of a PNG's first chunk
DEPTH = 24  # the byte of a PNG that holds the bits of a channel
SCAN = b"\xff\xda"  # begins a scan of a JPEG, and occurs nowhere else in one
MAX_SCANS = 100  # of a progressive JPEG: each goes over all pixels, and a small file can hold thousands
MAX_SIDE = 16_384  # telephones of 200 megapixels and their panoramas have no longer one
MAX_RATIO = 4_096  # of the sides, for an image so thin that nothing of it is seen at any size
WORK_PIXELS = 16_000_000  # a larger image is scaled down as it is decoded, or at once after
FACTORS = (1, 2, 4, 8)  # by which a decoder of JPEG scales down at no cost
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
UPRIGHT = {  # what turns an image upright, by its Exif orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Upload:
    """An image of which no pixel has been decoded yet, its Exif orientation, 1 to 8, and its colour profile."""

    image: Image.Image
    orientation: int = 1
    profile: bytes = b""
    full_size: tuple[int, int] = (0, 0)

    @property
    def size(self) -> tuple[int, int]:
        """The size (width, height) of the whole image, upright."""
        width, height = self.full_size
        return (height, width) if self.orientation >= 5 else (width, height)


def open_upload(data: bytes, param: str, formats: tuple[str, ...], max_pixels: int) -> Upload:
    """Open a still image of at most 8 bits a channel and ``max_pixels``.  Raises RequestError about ``param``."""
    file = _strip(data, param)
    try:
        image = Image.open(io.BytesIO(file.data), formats=formats)
    except BOMBS:
        raise bad_image(param, f"has more than {max_pixels} pixels") from None
    except Exception:  # Pillow raises whatever its parsers meet
        raise bad_image(param, f"must be a {_format_list(formats)} image") from None
    if image.width * image.height > max_pixels:
        raise bad_image(param, f"has more than {max_pixels} pixels")
    _check_sides(image.width, image.height, param)
    if getattr(image, "n_frames", 1) > 1:
        raise bad_image(param, "must not be animated")
    if image.format == "JPEG" and file.data.count(SCAN) > MAX_SCANS:
        raise bad_image(param, f"has more than {MAX_SCANS} scans")
    if image.format == "PNG":
        _check_png(data, file.data, param)
    if image.format == "WEBP":
        orientation = exif_orientation(image.info.get("exif") or b"")
        return Upload(image, orientation, image.info.get("icc_profile") or b"", image.size)
    return Upload(image, file.orientation, file.profile, image.size)


def decode_colours(upload: Upload, param: str, ground: Ground = WHITE) -> Image.Image:
    """Decode an upload as sRGB on a ground, upright, of at most WORK_PIXELS.  Raises RequestError about ``param``."""
    try:
        return _upright(upload, to_srgb(_scaled_down(upload.image), upload.profile, ground))
    except Exception:
        raise _damaged_image(param) from None


def decode_alpha(upload: Upload, param: str) -> Image.Image:
    """Decode the transparency of an upload at its full size, upright.  Raises RequestError about ``param``."""
    try:
        image = upload.image
        return _upright(upload, alpha_of(image if image.mode in ("RGBA", "LA") else image.convert("RGBA")))
    except Exception:
        raise _damaged_image(param) from None


def bad_image(param: str, what: str) -> RequestError:
    """Return the error about an uploaded image."""
    return RequestError(f"`{param}` {what}.", param=param, code="invalid_image")


def _upright(upload: Upload, image: Image.Image) -> Image.Image:
    turn = UPRIGHT.get(upload.orientation)
    return image if turn is None else image.transpose(turn)


def _scaled_down(image: Image.Image) -> Image.Image:
    """Return an image of at most WORK_PIXELS, smaller by a power of two where it has more."""
    pixels = image.width * image.height
    factor = next((factor for factor in FACTORS if pixels <= WORK_PIXELS * factor**2), FACTORS[-1])
    if factor == 1:
        return image
    if isinstance(image, JpegImageFile):
        image.draft(None, (image.width // factor, image.height // factor))
        return image
    if image.has_transparency_data and image.mode not in ("RGBA", "LA"):
        image = image.convert("RGBA")
    elif image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return reduced(image, factor)


def _check_sides(width: int, height: int, param: str) -> None:
    """Raise RequestError for an image that is too long or too thin."""
    if max(width, height) > MAX_SIDE:
        raise bad_image(param, f"is {width}x{height}; no side may have more than {MAX_SIDE} pixels")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise bad_image(param, f"is {width}x{height}; no side may be more than {MAX_RATIO} times the other")


def _strip(data: bytes, param: str) -> StrippedImage:
    try:
        return strip_metadata(data)
    except TooManyParts:
        raise bad_image(param, f"has more than {MAX_PARTS} parts") from None


def _check_png(data: bytes, stripped: bytes, param: str) -> None:
    """Raise RequestError for a PNG of more bits than Pillow keeps, or with a wrong checksum."""
    if data[IHDR] != b"IHDR":
        raise _damaged_image(param)
    if data[DEPTH] > 8:
        raise bad_image(param, "must have 8 bits a channel")
    try:
        Image.open(io.BytesIO(stripped), formats=("PNG",)).verify()
    except Exception:
        raise _damaged_image(param) from None


def _damaged_image(param: str) -> RequestError:
    return bad_image(param, "is damaged and cannot be decoded")


def _format_list(formats: tuple[str, ...]) -> str:
    names = ["WebP" if name == "WEBP" else name for name in formats]
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
