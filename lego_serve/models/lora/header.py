"""Reads the header of a safetensors file within a bound of memory, however long its training notes are.

Trainers write the count of every tag of every image into the metadata, which makes headers of many MB.  The format
allows 100 MB.  The header is read in pieces, and text over MAX_NOTE_BYTES is left out of it before it is parsed as
JSON: no name of a tensor or a model is that long.  PEFT's settings, which say the scale of every layer, stay whole.
"""

from collections.abc import Iterable, Iterator
from typing import BinaryIO

MAX_HEADER_BYTES = 100_000_000  # what safetensors allows
MAX_KEPT_BYTES = 1 << 20
MAX_NOTE_BYTES = 4096
PIECE_BYTES = 1 << 20
PEFT_METADATA = "lora_adapter_metadata"


class HeaderTooLong(Exception):
    """A header is longer than MAX_KEPT_BYTES even without its long notes."""


def pieces(file: BinaryIO, length: int) -> Iterator[bytes]:
    """Yield the next so many bytes of a file, as far as it has them."""
    while length > 0 and (piece := file.read(min(length, PIECE_BYTES))):
        length -= len(piece)
        yield piece


def without_long_notes(header: Iterable[bytes]) -> bytes:
    """Return JSON with ``""`` in the place of each string over MAX_NOTE_BYTES, PEFT's settings excepted.

    Raises HeaderTooLong.  Takes time in proportion to the bytes, and MAX_KEPT_BYTES beside one piece.
    """
    kept = bytearray()
    string, is_string, last = bytearray(), False, b""
    for piece, masked in _masked(header):
        start = 0
        while True:
            quote = masked.find(b'"', start)
            part = piece[start : len(piece) if quote < 0 else quote]
            if is_string:  # of a long one no more is kept than shows that it is
                limit = MAX_KEPT_BYTES if last == PEFT_METADATA.encode() else MAX_NOTE_BYTES
                string += part[: max(0, limit + 1 - len(string))]
            else:
                kept += part
            if quote < 0:
                break
            if is_string:
                if limit == MAX_KEPT_BYTES < len(string):
                    raise HeaderTooLong
                last = b"" if len(string) > limit else bytes(string)
                kept += b'"%b"' % last
                string.clear()
            is_string, start = not is_string, quote + 1
            if len(kept) > MAX_KEPT_BYTES:
                raise HeaderTooLong
        if len(kept) > MAX_KEPT_BYTES:
            raise HeaderTooLong
    return bytes(kept) + (b'"' if is_string else b"")


def _masked(header: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield pieces, each with a copy in which escaped quotes are no quotes; no escape is cut in two."""
    held = b""
    for piece in header:
        whole = held + piece
        slashes = len(whole) - len(whole.rstrip(b"\\"))
        held = b"\\" if slashes % 2 else b""
        whole = whole[: len(whole) - len(held)]
        yield whole, whole.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    if held:
        yield held, b"_"
