"""Image files rid of what is no image, before anything is unpacked: profiles, texts, comments, other data.

A decoder unpacks, parses and keeps these, some at a cost that a small file can drive without bounds.  So files are
walked here by their outer structure, which is cheap, in the decoder's own way of reading it, and only what makes up
pixels is handed on.  How a camera was held is read first, from the one place where cameras say it.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
MAX_PARTS = 65_536  # chunks of a PNG, segments before a JPEG's pixels; libpng writes one for each 8 KiB of pixels
PNG_EXTRAS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")  # chunks that a decoder might do without, and an image might not
FRAMES = set(range(0xC0, 0xD0)) - {0xC8}  # a JPEG's frame and its Huffman tables
JPEG_KEPT = {*FRAMES, 0xDB, 0xDC, 0xDD, 0xE0, 0xEE}  # and its other tables, JFIF, and what Adobe says of colours
MEASURED = {*JPEG_KEPT, 0xDE, 0xDF, *range(0xE0, 0xF0), 0xFE}  # segments that say their length
MARKER = re.compile(rb"\xff([^\x00\xff])")  # whatever is between segments is passed over, as decoders do
SCAN, EXIF = 0xDA, b"Exif\0\0"
ORIENTATION = 0x0112


class TooManyParts(Exception):
    """A file of more parts than any image needs."""


@dataclass(frozen=True, slots=True)
class StrippedImage:
    """A file that holds pixels and what decoding them takes; ``turn`` says how its camera was held, 1 to 8."""

    data: bytes
    turn: int = 1


def strip_metadata(data: bytes) -> StrippedImage:
    """An image's file without the rest.  Raises TooManyParts; what is damaged is left for the decoder to refuse."""
    if data.startswith(PNG):
        kept, exif = _split(data, PNG, _chunks(data))
    elif data.startswith(JPEG):
        kept, exif = _split(data, JPEG[:2], _segments(data))
    else:  # WebP, of which a decoder hands out the rest as it is
        return StrippedImage(data)
    return StrippedImage(kept, turn_of(exif))


def turn_of(exif: bytes) -> int:
    """How a camera was held, 1 to 8, by the first directory of its Exif data; 1 where that does not say."""
    tiff = exif.removeprefix(EXIF).removeprefix(EXIF)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (at,) = struct.unpack_from(f"{order}L", tiff, 4)
    count = struct.unpack_from(f"{order}H", tiff, at)[0] if at + 2 <= len(tiff) else 0
    for place in range(at + 2, min(at + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, values = struct.unpack_from(f"{order}HHL", tiff, place)
        if tag == ORIENTATION:
            (turn,) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'L'}", tiff, place + 8)
            return turn if kind in (3, 4) and values == 1 and 1 <= turn <= 8 else 1
    return 1


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes [start, stop) of a file: pixels or not, and where Exif data begins if it is that."""

    start: int
    stop: int
    is_kept: bool
    exif: int | None = None


def _split(data: bytes, signature: bytes, parts: Iterator[_Part]) -> tuple[bytes, bytes]:
    """What is kept, and the first Exif data."""
    kept, exif = [signature], b""
    for number, part in enumerate(parts):
        if number >= MAX_PARTS:
            raise TooManyParts
        if part.is_kept:
            kept.append(data[part.start : part.stop])
        elif part.exif is not None and not exif:
            exif = data[part.exif : part.stop]
    return b"".join(kept), exif


def _chunks(data: bytes) -> Iterator[_Part]:
    """Those of a PNG, up to its end, or to where it is cut off, which is handed on."""
    at, name = len(PNG), b""
    while at + 8 <= len(data) and name != b"IEND":
        length, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        stop = at + 12 + length
        if stop > len(data):
            break
        is_critical = not name[0] & 0x20
        if name == b"eXIf":  # its checksum, at the end, is no harm: directories say where they lie
            yield _Part(at, stop, False, at + 8)
        else:
            yield _Part(at, stop, is_critical or name in PNG_EXTRAS)
        at = stop
    if name != b"IEND":
        yield _Part(at, len(data), True)


def _segments(data: bytes) -> Iterator[_Part]:
    """Those of a JPEG before its pixels, and then all that follows as one."""
    at = 2
    while (found := MARKER.search(data, at)) is not None:
        start, kind = found.start(), found.group(1)[0]
        if kind == SCAN or kind < 0xC0 or start + 4 > len(data):
            yield _Part(start, len(data), True)
            return
        if kind not in MEASURED:
            yield _Part(start, start + 2, False)
            at = start + 2
            continue
        at = start + 2 + max(2, int.from_bytes(data[start + 2 : start + 4]))
        is_exif = kind == 0xE1 and data.startswith(EXIF, start + 4)
        yield _Part(start, at, kind in JPEG_KEPT, start + 4 if is_exif else None)
