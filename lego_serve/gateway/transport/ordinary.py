"""The short way for ordinary requests and answers, beside h11, which reads and writes everything.

A head or an answer is ordinary where one regular expression describes it whole and it leaves h11 nothing to decide.
Both functions decline whatever is not; what they take is what h11 takes, in the same words.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from lego_serve.gateway.transport.limits import ConnectionLimits

Header = tuple[bytes, bytes]
TOKEN = rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]++"
HEAD = re.compile(rb"(%b) (/[\x21-\x7e]*+) HTTP/1\.1\r\n((?:%b:[\x20-\x7e]*+\r\n)++)\r\n" % (TOKEN, TOKEN))
LINES = re.compile(rb"(?:%b: (?:[\x21-\x7e]++(?: ++[\x21-\x7e]++)*+)?+\r\n)++" % TOKEN)
LENGTH = re.compile(rb"[0-9]{1,15}")
DECIDING = frozenset((b"transfer-encoding", b"upgrade", b"expect"))  # of how a request goes on; h11 reads these
BODILESS = (204, 304)


class OrdinaryHead(NamedTuple):
    """A request's head as it was read; ``size`` is its bytes, ``body_bytes`` those that follow."""

    method: bytes
    target: bytes
    headers: list[Header]
    size: int
    body_bytes: int


def ordinary_head(data: bytes, limits: ConnectionLimits) -> OrdinaryHead | None:
    """Return the head that bytes begin with; None where h11 is to read them."""
    found = HEAD.match(data)
    if found is None or (size := found.end()) > limits.head_bytes:
        return None
    method, target, block = found.groups()
    lines = block.split(b"\r\n")
    lines.pop()
    headers = [(name.lower(), value.strip(b" ")) for name, _, value in [line.partition(b":") for line in lines]]
    if len(headers) > limits.headers or len(target) > limits.target_bytes or method == b"CONNECT":
        return None
    named = dict(headers)
    body_bytes = 0
    if len(named) < len(headers):  # a name stands twice, perhaps one that must not
        return None
    if b"host" not in named or not DECIDING.isdisjoint(named):
        return None
    if (connection := named.get(b"connection")) is not None and connection.lower() != b"keep-alive":
        return None
    if (length := named.get(b"content-length")) is not None:
        if LENGTH.fullmatch(length) is None:
            return None
        body_bytes = int(length)
    return OrdinaryHead(method, target, headers, size, body_bytes)


def ordinary_answer(status: int, reason: bytes, headers: Sequence[Header]) -> tuple[bytes, int] | None:
    """Return the head of an answer and the bytes of its body; None where h11 is to write it."""
    names = [name.lower() for name, _ in headers]
    if names.count(b"content-length") != 1 or status in BODILESS or not 200 <= status < 600:
        return None
    if b"connection" in names or b"transfer-encoding" in names or b"host" in names:
        return None
    length = headers[names.index(b"content-length")][1]
    lines = b"".join([b"%b: %b\r\n" % each for each in headers])
    if LENGTH.fullmatch(length) is None or lines.count(b"\n") != len(headers) or LINES.fullmatch(lines) is None:
        return None
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, lines), int(length)
