"""Brings the colours of an upload to sRGB on a ground: by its profile, and by its transparency."""

import io
import logging
import zlib

from PIL import Image, ImageCms

from lego_serve.gateway.media.strips import alpha_of

log = logging.getLogger("lego_serve.gateway")
MAX_PROFILE_BYTES = 2**20  # profiles of cameras and screens take under 10 kB, those of printers up to 1 MB
SPACES = {"RGB": b"RGB ", "L": b"GRAY", "CMYK": b"CMYK"}  # what a profile is of, by the mode of its image
HEADER_BYTES, SPACE, SIGNATURE = 128, slice(16, 20), slice(36, 40)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
Ground = tuple[int, int, int]


def unpack_profile(chunk: bytes) -> bytes:
    """Return the profile in a PNG's iCCP chunk; nothing where it is damaged or beyond the bound."""
    _, zero, packed = chunk[:MAX_PROFILE_BYTES].partition(b"\0")
    if not zero or packed[:1] != b"\0":
        return b""
    try:
        profile = zlib.decompressobj().decompress(packed[1:], MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return b""
    return profile if len(profile) <= MAX_PROFILE_BYTES else b""


def to_srgb(image: Image.Image, profile: bytes, ground: Ground) -> Image.Image:
    """Return a decoded image as RGB: its colours as its profile means them, what is transparent as the ground.

    A profile that is damaged, or of another kind of colours than the image, is passed over.
    """
    alpha = None
    if image.has_transparency_data:
        image = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
        alpha = alpha_of(image)
        image = image.convert("L") if image.mode == "LA" else image.convert("RGB")
    elif image.mode not in SPACES:
        image = image.convert("L" if image.mode == "1" else "RGB")
    colours = _by_profile(image, profile) or (image if image.mode == "RGB" else image.convert("RGB"))
    if alpha is None:
        return colours
    composed = Image.new("RGB", colours.size, ground)
    composed.paste(colours, mask=alpha)
    return composed


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Return an image in sRGB; None where its profile cannot say how."""
    is_of_image = profile[SPACE] == SPACES.get(image.mode) and profile[SIGNATURE] == b"acsp"
    if not is_of_image or not HEADER_BYTES < int.from_bytes(profile[:4]) <= len(profile) <= MAX_PROFILE_BYTES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # what Pillow raises for profiles it cannot use
        log.debug("the colour profile of an upload cannot be used")
        return None
