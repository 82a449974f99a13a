"""Reads base64 as tools write it: wrapped, in a data URL, of either alphabet, with padding or without."""

import binascii
import re

PIECE = 2**20  # characters decoded at a time: other threads run between two pieces
HEAD = re.compile(r"\s*data:[^,]{0,1024};\s*base64\s*,", re.IGNORECASE)
WHITESPACE = b" \t\r\n\f\v"
ALPHABET = bytes.maketrans(b"-_", b"+/")  # the alphabet for URLs means the same bytes


def decode_base64(text: str) -> bytes:
    """Return the bytes that base64, or a data URL of any type, holds.  Raises ValueError; takes linear time."""
    head = HEAD.match(text)
    pieces, rest, padding = [], b"", b""
    for start in range(head.end() if head else 0, len(text), PIECE):
        piece = text[start : start + PIECE].encode("ascii").translate(ALPHABET, WHITESPACE)
        if padding and piece.strip(b"="):
            raise ValueError("text follows the padding")
        body = piece.rstrip(b"=")
        if b"=" in body:
            raise ValueError("text follows the padding")
        padding += piece[len(body) :]
        rest += body
        whole = len(rest) - len(rest) % 4
        pieces.append(binascii.a2b_base64(rest[:whole], strict_mode=True))
        rest = rest[whole:]
    if padding and len(rest) + len(padding) != 4:
        raise ValueError("the padding has a wrong length")
    pieces.append(binascii.a2b_base64(rest + b"=" * (-len(rest) % 4), strict_mode=True))
    return b"".join(pieces)
