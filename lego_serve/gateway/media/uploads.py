"""Opens uploads, whatever they really are: checks headers before a pixel is decoded, then turns images upright.

What a file carries besides pixels (profiles, comments, thumbnails, another file behind it) is dropped unread.
"""

import io
from dataclasses import dataclass

from PIL import Image

from lego_serve.errors import RequestError
from lego_serve.gateway.media.strip_metadata import (
    MAX_PARTS,
    StrippedImage,
    TooManyParts,
    exif_orientation,
    strip_metadata,
)

IHDR = slice(12, 16)  # the name of a PNG's first chunk
DEPTH = 24  # the byte of a PNG that holds the bits of a channel
SCAN = b"\xff\xda"  # begins a scan of a JPEG, and occurs nowhere else in one
MAX_SCANS = 100  # of a progressive JPEG: each goes over all pixels, and a small file can hold thousands
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
    """An image of which no pixel has been decoded yet, and its Exif orientation, 1 to 8."""

    image: Image.Image
    orientation: int = 1


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
    if getattr(image, "n_frames", 1) > 1:
        raise bad_image(param, "must not be animated")
    if image.format == "JPEG" and file.data.count(SCAN) > MAX_SCANS:
        raise bad_image(param, f"has more than {MAX_SCANS} scans")
    if image.format == "PNG":
        _check_png(data, file.data, param)
    if image.format == "WEBP":
        return Upload(image, exif_orientation(image.info.get("exif") or b""))
    return Upload(image, file.orientation)


def decode_pixels(upload: Upload, mode: str, param: str) -> Image.Image:
    """Decode an upload in a mode of Pillow's, turned upright.  Raises RequestError about ``param``."""
    try:
        turn, image = UPRIGHT.get(upload.orientation), upload.image
        upright = image if turn is None else image.transpose(turn)
        if upright.mode == "P":  # Pillow reaches not every mode in one step from a palette with transparency
            upright = upright.convert("RGBA")
        return upright.convert(mode)
    except Exception:
        raise _damaged_image(param) from None


def bad_image(param: str, what: str) -> RequestError:
    """Return the error about an uploaded image."""
    return RequestError(f"`{param}` {what}.", param=param, code="invalid_image")


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
