"""Uploaded pictures, whatever they really are: judged by their headers before a pixel is decoded, then decoded upright.

What a file carries besides pixels (profiles, comments, thumbnails, another file behind it) is dropped.
"""

import io

from PIL import Image, ImageOps

from lego_serve.errors import RequestError

IHDR = slice(12, 16)  # of a PNG: the first chunk's name
DEPTH = 24  # where it says the bits of a channel
SCAN = b"\xff\xda"  # what begins a scan of a JPEG; nothing else in one contains it
SCANS = 100  # of a progressive JPEG: each goes over all pixels, and a small file can hold thousands
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def opened(data: bytes, param: str, formats: tuple[str, ...], max_pixels: int) -> Image.Image:
    """A still picture of 8 bits a channel or less and of at most so many pixels.  Raises RequestError."""
    try:
        picture = Image.open(io.BytesIO(data), formats=formats)
    except BOMBS:
        raise bad(param, f"has more than {max_pixels} pixels") from None
    except Exception:  # Pillow raises whatever its parsers meet
        raise bad(param, f"must be a {_listed(formats)} picture") from None
    if picture.width * picture.height > max_pixels:
        raise bad(param, f"has more than {max_pixels} pixels")
    # An MPO is a JPEG with others behind it, such as a telephone's: the first is the picture.
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
        raise bad(param, "must not be animated")
    if picture.format in ("JPEG", "MPO") and data.count(SCAN) > SCANS:
        raise bad(param, f"has more than {SCANS} scans")
    if picture.format == "PNG":
        _check_png(data, param)
    return picture


def decoded(picture: Image.Image, mode: str, param: str) -> Image.Image:
    """Its pixels in a mode, turned the way its camera says.  Raises RequestError."""
    try:
        upright = _upright(picture)
        if upright.mode == "P":  # from a palette with transparency not every mode can be reached in one step
            upright = upright.convert("RGBA")
        return upright.convert(mode)
    except Exception:
        raise _damaged(param) from None


def bad(param: str, what: str) -> RequestError:
    """A complaint about an uploaded picture."""
    return RequestError(f"`{param}` {what}.", param=param, code="invalid_image")


def _check_png(data: bytes, param: str) -> None:
    """Raise RequestError for a PNG of more bits than Pillow keeps, or one that has not arrived as it was sent."""
    if data[IHDR] != b"IHDR":
        raise _damaged(param)
    if data[DEPTH] > 8:
        raise bad(param, "must have 8 bits a channel")
    try:
        Image.open(io.BytesIO(data), formats=("PNG",)).verify()
    except Exception:
        raise _damaged(param) from None


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # what cannot be read says nothing of how it was held
        return picture


def _damaged(param: str) -> RequestError:
    return bad(param, "is damaged and cannot be decoded")


def _listed(formats: tuple[str, ...]) -> str:
    names = ["WebP" if name == "WEBP" else name for name in formats]
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
