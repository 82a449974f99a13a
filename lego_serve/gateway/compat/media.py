"""Images of foreign protocols: masks made into ours, and PNG files with the text that says how they were made."""

import base64
import io
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

from lego_serve.compat.task import MaskUse
from lego_serve.core.jobs.job import GeneratedImage
from lego_serve.errors import RequestError
from lego_serve.gateway.media.base64_text import decode_base64
from lego_serve.gateway.media.codec import FORMATS
from lego_serve.gateway.media.colours import BLACK
from lego_serve.gateway.media.uploads import bad_image, decode_alpha, decode_colours, open_upload

MAGIC = b"\x89PNG\r\n\x1a\n"
KEYWORD = b"parameters"  # of the text chunk that A1111 keeps its line of parameters in
MAX_TEXT_BYTES = 64 * 1024
MAX_CHUNKS = 1000
CHANNELS = {"red": 0, "green": 1, "blue": 2}


def file_of_base64(text: str, param: str) -> bytes:
    """Return the bytes of a file in base64, or in a data URL.  Raises RequestError."""
    try:
        return decode_base64(text)
    except ValueError:
        raise RequestError(f"`{param}` must be base64 of an image.", param=param, code="invalid_image") from None


def edit_mask(use: MaskUse, data: bytes, image: bytes, max_pixels: int) -> bytes:
    """Return the mask of an edit as a PNG of the image's size that is transparent where the image changes.

    Raises RequestError.
    """
    size = open_upload(image, "image", FORMATS, max_pixels).size
    values = _channel(use, data, max_pixels).resize(size, Image.Resampling.NEAREST)
    is_high = np.asarray(values) > 127
    kept = np.where(is_high == use.edits_high, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.merge("LA", (Image.new("L", size), Image.fromarray(kept))).save(out, "PNG", compress_level=1)
    return out.getvalue()


def opaque(data: bytes, max_pixels: int) -> bytes:
    """Return an image without its transparency, and the colours below it as they are.  Raises RequestError."""
    upload = open_upload(data, "image", FORMATS, max_pixels)
    if not upload.image.has_transparency_data:
        return data
    out = io.BytesIO()
    try:
        upload.image.convert("RGBA").convert("RGB").save(out, "PNG", compress_level=1)
    except (OSError, ValueError, SyntaxError):  # Pillow's words for a damaged file
        raise bad_image("image", "is damaged and cannot be decoded") from None
    return out.getvalue()


def masked(data: bytes, mask: bytes, max_pixels: int) -> bytes:
    """Return an image with the transparency of another, as a PNG.  Raises RequestError."""
    upload = open_upload(mask, "mask", FORMATS, max_pixels)
    if not upload.image.has_transparency_data:
        raise bad_image("image", "must have an alpha channel, which is the mask")
    alpha = decode_alpha(upload, "mask")
    colours = decode_colours(open_upload(opaque(data, max_pixels), "image", FORMATS, max_pixels), "image")
    colours.putalpha(alpha.resize(colours.size, Image.Resampling.NEAREST))
    out = io.BytesIO()
    colours.save(out, "PNG", compress_level=1)
    return out.getvalue()


def checked_image(data: bytes, max_pixels: int) -> bytes:
    """Return a file that is a still image of a kind that is read here.  Raises RequestError."""
    open_upload(data, "image", FORMATS, max_pixels)
    return data


def media_type(data: bytes) -> str:
    """Return the type of an image's file."""
    if data.startswith(b"\xff\xd8"):
        return "image/jpeg"
    return "image/webp" if data[8:12] == b"WEBP" else "image/png"


def _channel(use: MaskUse, data: bytes, max_pixels: int) -> Image.Image:
    """Return the channel of a mask that says what changes; ``grey`` is the alpha of one that is transparent."""
    upload = open_upload(data, "mask", FORMATS, max_pixels)
    if use.channel in ("alpha", "grey") and upload.image.has_transparency_data:
        alpha = decode_alpha(upload, "mask")
        if use.channel == "alpha" or alpha.getextrema() != (255, 255):
            return alpha
        upload = open_upload(data, "mask", FORMATS, max_pixels)
    elif use.channel == "alpha":
        return Image.new("L", upload.size, 255)
    colours = decode_colours(upload, "mask", BLACK)
    return colours.convert("L") if use.channel == "grey" else colours.getchannel(CHANNELS[use.channel])


def png_base64(image: GeneratedImage, text: str) -> str:
    """Return an image as base64 of a PNG that holds a text of parameters."""
    chunks = PngImagePlugin.PngInfo()
    if text:
        chunks.add_text(KEYWORD.decode(), text)
    out = io.BytesIO()
    Image.frombytes("RGB", (image.width, image.height), image.rgb).save(out, "PNG", pnginfo=chunks)
    return base64.b64encode(out.getvalue()).decode()


def png_text(data: bytes) -> str:
    """Return the text of parameters that a PNG file holds, empty without one.  Raises RequestError."""
    if not data.startswith(MAGIC):
        raise bad_image("image", "must be a PNG image")
    position = len(MAGIC)
    for _ in range(MAX_CHUNKS):
        head = data[position : position + 8]
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, _, rest = data[position + 8 : position + 8 + length].partition(b"\0")
            if keyword == KEYWORD:
                return _chunk_text(kind, rest)
        position += 12 + length
    return ""


def _chunk_text(kind: bytes, rest: bytes) -> str:
    """Return the text of a chunk behind its keyword; what is packed is unpacked as far as a text may be long."""
    if kind == b"tEXt":
        return rest[:MAX_TEXT_BYTES].decode("latin-1")
    if kind == b"zTXt":
        return _unpacked(rest[1:]).decode("latin-1")
    is_packed, parts = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
    text = parts[2] if len(parts) == 3 else b""
    return (_unpacked(text) if is_packed else text[:MAX_TEXT_BYTES]).decode(errors="replace")


def _unpacked(packed: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, MAX_TEXT_BYTES)
    except zlib.error:
        return b""
