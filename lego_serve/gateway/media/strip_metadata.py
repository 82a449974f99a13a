"""Strips image files of all but the image before a decoder sees them: profiles, texts, comments, other data.

A decoder unpacks, parses and keeps these, some at a cost that a small file can drive without bounds.  So the outer
structure of a file is walked here, which is cheap, in the same way as the decoder walks it, and only the parts that
make up pixels are handed on.  The orientation and the colour profile are taken out, each from the one place where it
is written; a profile is unpacked within a bound.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from lego_serve.gateway.media.colours import MAX_PROFILE_BYTES, unpack_profile

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
MAX_PARTS = 65_536  # chunks of a PNG, segments before a JPEG's pixels; libpng writes one for each 8 KiB of pixels
PNG_EXTRAS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")  # ancillary chunks that change what an image looks like
FRAMES = set(range(0xC0, 0xD0)) - {0xC8}  # markers of a JPEG's frame and of its Huffman tables
JPEG_KEPT = {*FRAMES, 0xDB, 0xDC, 0xDD, 0xE0, 0xEE}  # also its other tables, JFIF, and Adobe's colour transform
WITH_LENGTH = {*JPEG_KEPT, 0xDE, 0xDF, *range(0xE0, 0xF0), 0xFE}  # segments that begin with their length
MARKER = re.compile(rb"\xff([^\x00\xff])")  # bytes between segments are skipped, as decoders do
SCAN, EXIF, ICC = 0xDA, b"Exif\0\0", b"ICC_PROFILE\0"
ICC_HEAD = len(ICC) + 2  # with the number of the segment, and of all of a profile
ORIENTATION = 0x0112  # a tag of Exif
SHORT, LONG = 3, 4  # types of a tag's value: 16 and 32 bits


class TooManyParts(Exception):
    """A file has more parts than any image needs."""


@dataclass(frozen=True, slots=True)
class StrippedImage:
    """A file of pixels and what decoding them takes, its Exif orientation, 1 to 8 (1 is upright), and its profile."""

    data: bytes
    orientation: int = 1
    profile: bytes = b""


def strip_metadata(data: bytes) -> StrippedImage:
    """Return an image's file without metadata.  Raises TooManyParts; the decoder refuses what is damaged."""
    if data.startswith(PNG):
        stripped, exif, profile = _split(data, PNG, _png_chunks(data))
        profile = unpack_profile(profile)
    elif data.startswith(JPEG):
        stripped, exif, profile = _split(data, JPEG[:2], _jpeg_segments(data))
    else:  # a decoder of WebP hands out metadata unparsed
        return StrippedImage(data)
    return StrippedImage(stripped, exif_orientation(exif), profile)


def exif_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, in the first directory of Exif data; 1 where it has none."""
    tiff = exif.removeprefix(EXIF).removeprefix(EXIF)
    byte_order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if byte_order is None or len(tiff) < 8:
        return 1
    (directory,) = struct.unpack_from(f"{byte_order}L", tiff, 4)
    entries = struct.unpack_from(f"{byte_order}H", tiff, directory)[0] if directory + 2 <= len(tiff) else 0
    first = directory + 2
    for offset in range(first, min(first + 12 * entries, len(tiff) - 11), 12):
        tag, kind, count = struct.unpack_from(f"{byte_order}HHL", tiff, offset)
        if tag == ORIENTATION:
            value_format = "H" if kind == SHORT else "L"
            (orientation,) = struct.unpack_from(f"{byte_order}{value_format}", tiff, offset + 8)
            is_valid = kind in (SHORT, LONG) and count == 1 and 1 <= orientation <= 8
            return orientation if is_valid else 1
    return 1


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes [start, stop) of a file: whether they are kept, and where Exif data or a profile begins in it."""

    start: int
    stop: int
    is_kept: bool
    exif_start: int | None = None
    profile_start: int | None = None


def _split(data: bytes, signature: bytes, parts: Iterator[_Part]) -> tuple[bytes, bytes, bytes]:
    """Return the signature with the parts that are kept, the first Exif data, and what profile there is."""
    kept_parts, exif, profile = [signature], b"", b""
    for number, part in enumerate(parts):
        if number >= MAX_PARTS:
            raise TooManyParts
        if part.is_kept:
            kept_parts.append(data[part.start : part.stop])
        elif part.exif_start is not None and not exif:
            exif = data[part.exif_start : part.stop]
        elif part.profile_start is not None and len(profile) <= MAX_PROFILE_BYTES:  # one beyond it is passed over
            profile += data[part.profile_start : min(part.stop, part.profile_start + MAX_PROFILE_BYTES + 1)]
    return b"".join(kept_parts), exif, profile


def _png_chunks(data: bytes) -> Iterator[_Part]:
    """Yield the chunks of a PNG up to its end; one that is cut off is kept, for the decoder to refuse."""
    start, name = len(PNG), b""
    while start + 8 <= len(data) and name != b"IEND":
        length, name = int.from_bytes(data[start : start + 4]), data[start + 4 : start + 8]
        stop = start + 12 + length
        if stop > len(data):
            break
        is_critical = not name[0] & 0x20
        if name == b"eXIf":  # the checksum at its end does no harm: Exif data says where its directories lie
            yield _Part(start, stop, is_kept=False, exif_start=start + 8)
        elif name == b"iCCP":
            yield _Part(start, stop, is_kept=False, profile_start=start + 8)
        else:
            yield _Part(start, stop, is_kept=is_critical or name in PNG_EXTRAS)
        start = stop
    if name != b"IEND":
        yield _Part(start, len(data), is_kept=True)


def _jpeg_segments(data: bytes) -> Iterator[_Part]:
    """Yield the segments of a JPEG before its pixels, and then all that follows as one part."""
    stop = 2
    while (marker := MARKER.search(data, stop)) is not None:
        start, kind = marker.start(), marker.group(1)[0]
        if kind == SCAN or kind < 0xC0 or start + 4 > len(data):
            yield _Part(start, len(data), is_kept=True)
            return
        if kind not in WITH_LENGTH:
            stop = start + 2
            yield _Part(start, stop, is_kept=False)
            continue
        stop = start + 2 + max(2, int.from_bytes(data[start + 2 : start + 4]))
        is_exif = kind == 0xE1 and data.startswith(EXIF, start + 4)
        is_profile = kind == 0xE2 and data.startswith(ICC, start + 4)
        yield _Part(
            start,
            stop,
            is_kept=kind in JPEG_KEPT,
            exif_start=start + 4 if is_exif else None,
            profile_start=start + 4 + ICC_HEAD if is_profile else None,
        )
