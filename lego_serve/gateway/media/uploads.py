"""Uploaded images, whatever they really are: judged by their headers before a pixel is decoded, then decoded upright.

What a file carries besides pixels (profiles, comments, thumbnails, another file behind it) is dropped unread.
"""

import io
from dataclasses import dataclass

from PIL import Image

from lego_serve.errors import RequestError
from lego_serve.gateway.media.strip_metadata import MAX_PARTS, StrippedImage, TooManyParts, strip_metadata, turn_of

IHDR = slice(12, 16)  # of a PNG: the first chunk's name
DEPTH = 24  # where it says the bits of a channel
SCAN = b"\xff\xda"  # what begins a scan of a JPEG; nothing else in one contains it
SCANS = 100  # of a progressive JPEG: each goes over all pixels, and a small file can hold thousands
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
TURNS = {  # what brings an image upright, by how its camera was held
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
    """An image of which no pixel has been decoded yet, and how its camera was held."""

    image: Image.Image
    turn: int = 1


def opened(data: bytes, param: str, formats: tuple[str, ...], max_pixels: int) -> Upload:
    """A still image of 8 bits a channel or less and of at most so many pixels.  Raises RequestError."""
    file = _bare(data, param)
    try:
        image = Image.open(io.BytesIO(file.data), formats=formats)
    except BOMBS:
        raise bad(param, f"has more than {max_pixels} pixels") from None
    except Exception:  # Pillow raises whatever its parsers meet
        raise bad(param, f"must be a {_listed(formats)} image") from None
    if image.width * image.height > max_pixels:
        raise bad(param, f"has more than {max_pixels} pixels")
    if getattr(image, "n_frames", 1) > 1:
        raise bad(param, "must not be animated")
    if image.format == "JPEG" and file.data.count(SCAN) > SCANS:
        raise bad(param, f"has more than {SCANS} scans")
    if image.format == "PNG":
        _check_png(data, file.data, param)
    if image.format == "WEBP":
        return Upload(image, turn_of(image.info.get("exif") or b""))
    return Upload(image, file.turn)


def decoded(upload: Upload, mode: str, param: str) -> Image.Image:
    """Its pixels in a mode, turned the way its camera says.  Raises RequestError."""
    try:
        turn, image = TURNS.get(upload.turn), upload.image
        upright = image if turn is None else image.transpose(turn)
        if upright.mode == "P":  # from a palette with transparency not every mode can be reached in one step
            upright = upright.convert("RGBA")
        return upright.convert(mode)
    except Exception:
        raise _damaged(param) from None


def bad(param: str, what: str) -> RequestError:
    """A complaint about an uploaded image."""
    return RequestError(f"`{param}` {what}.", param=param, code="invalid_image")


def _bare(data: bytes, param: str) -> StrippedImage:
    try:
        return strip_metadata(data)
    except TooManyParts:
        raise bad(param, f"has more than {MAX_PARTS} parts") from None


def _check_png(data: bytes, bare_data: bytes, param: str) -> None:
    """Raise RequestError for a PNG of more bits than Pillow keeps, or whose pixels did not arrive as they were sent."""
    if data[IHDR] != b"IHDR":
        raise _damaged(param)
    if data[DEPTH] > 8:
        raise bad(param, "must have 8 bits a channel")
    try:
        Image.open(io.BytesIO(bare_data), formats=("PNG",)).verify()
    except Exception:
        raise _damaged(param) from None


def _damaged(param: str) -> RequestError:
    return bad(param, "is damaged and cannot be decoded")


def _listed(formats: tuple[str, ...]) -> str:
    names = ["WebP" if name == "WEBP" else name for name in formats]
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
