"""The bytes of hostile requests.  Pure: large ones are made piece by piece, so that the sender holds one piece."""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping

MB = 1_000_000
PIECE = 64 * 1024
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
BOUNDARY = "hostile-boundary"


def head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def post(path: str, body: bytes, content_type: str = "application/json") -> bytes:
    """Return a whole request with a body."""
    return head("POST", path, {"Content-Type": content_type, "Content-Length": str(len(body))}) + body


def generation(number: int, steps: int = 2) -> bytes:
    """Return a sound request for one small image, which differs from those of other numbers."""
    body = {"prompt": f"a red circle {number}", "size": "96x96", "num_inference_steps": steps, "seed": number}
    return post(GENERATIONS, json.dumps(body).encode())


def many_names(count: int) -> bytes:
    """Return JSON whose field ``style``, not supported, has so many names, and the last one twice."""
    names = [f'"k{number}":1' for number in range(count)]
    return ('{"prompt":"a","style":{' + ",".join([*names, names[-1]]) + "}}").encode()


def long_list(field: str, item: str, size: int) -> bytes:
    """Return JSON of about ``size`` bytes whose field is a list of the item."""
    count = size // (len(item) + 1)
    return (f'{{"prompt":"a","{field}":[' + ",".join([item] * count) + "]}").encode()


def nested(depth: int) -> bytes:
    """Return JSON whose field ``style`` is lists in lists, so many."""
    return b'{"prompt":"a","style":' + b"[" * depth + b"]" * depth + b"}"


def repeated(piece: bytes, size: int) -> Iterator[bytes]:
    """Yield a piece over and over until ``size`` bytes are there, in pieces of about 64 KiB."""
    times = max(1, PIECE // len(piece))
    for _ in range(size // (len(piece) * times)):
        yield piece * times


def large_header(size: int) -> Iterator[bytes]:
    """Yield a request with one header of ``size`` bytes."""
    yield b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Large: "
    yield from repeated(b"a", size)
    yield b"\r\n\r\n"


def small_headers(size: int) -> Iterator[bytes]:
    """Yield a request with ``size`` bytes of headers of 32 bytes each."""
    yield b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    yield from repeated(b"X-Small: aaaaaaaaaaaaaaaaaaaaa\r\n", size)
    yield b"\r\n"


def large_target(size: int) -> Iterator[bytes]:
    """Yield a request whose target has ``size`` bytes."""
    yield b"GET /"
    yield from repeated(b"a", size)
    yield b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def large_body(path: str, size: int) -> Iterator[bytes]:
    """Yield a request with a body of ``size`` bytes, which says so."""
    pieces = size // PIECE
    yield head("POST", path, {"Content-Type": "application/json", "Content-Length": str(pieces * PIECE)})
    yield from repeated(b"0" * PIECE, pieces * PIECE)


def grey_png(width: int, height: int) -> bytes:
    """Return a grey PNG, whose file is about a thousandth of its pixels."""
    row = b"\0" * (1 + width)
    packer = zlib.compressobj(9)
    per_piece = max(1, PIECE // len(row))
    packed = [packer.compress(row * min(per_piece, height - done)) for done in range(0, height, per_piece)]
    chunks = (
        (b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", b"".join(packed) + packer.flush()),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data)) for name, data in chunks
    )


def edit(image: bytes) -> bytes:
    """Return a request to edit an image, into a small one."""
    fields = {"prompt": "a red circle", "size": "96x96", "num_inference_steps": "2"}
    parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields.items()]
    file = 'Content-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png'
    body = "".join(parts).encode() + f"--{BOUNDARY}\r\n{file}\r\n\r\n".encode() + image
    return post(EDITS, body + f"\r\n--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}")


def dripping() -> dict[str, tuple[bytes, bytes]]:
    """Return what slow clients of each kind begin with, and the piece that they send again and again."""
    form = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": str(MB)}
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    chunked = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    return {
        "silent": (b"", b""),
        "head": (b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", b"a"),
        "body": (head("POST", GENERATIONS, {"Content-Type": "application/json", "Content-Length": str(MB)}), b" "),
        "chunks": (head("POST", GENERATIONS, chunked), b"1\r\n \r\n"),
        "multipart": (head("POST", EDITS, form) + part.encode(), b"a"),
    }
