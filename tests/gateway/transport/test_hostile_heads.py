"""Heads and framing that nobody should send: each has its status, ends its connection, and makes no job."""

import re
from collections.abc import Iterator

import httpx2
import pytest

from tests.support.gateway.wire import IMAGE, TIMEOUT_S, Gateway, Reader, gateway, head, wait_for

LENGTH = f"Content-Length: {len(IMAGE)}"
CHUNKED = "Transfer-Encoding: chunked"
SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = "POST /v1/images/generations HTTP/1.1"


@pytest.fixture(scope="module")
def server() -> Iterator[Gateway]:
    """A gateway with the product's limits and little patience."""
    with gateway(head_timeout_s=0.3, body_timeout_s=0.3, keep_alive_s=0.3) as running:
        yield running


def request(*lines: str, first: str = POST, host: str = "Host: localhost", body: bytes = IMAGE) -> bytes:
    """A request for an image, put together by hand."""
    named = [host] if host else []
    return "\r\n".join([first, *named, "Content-Type: application/json", *lines, "", ""]).encode("latin-1") + body


def exchange(server: Gateway, sent: bytes) -> tuple[list[int], bytes]:
    """The statuses of all answers, and all bytes, until the server closes."""
    with server.asked(sent) as connection:
        received = Reader(connection).rest()
    return [int(found) for found in re.findall(rb"^HTTP/1\.1 (\d{3}) ", received, re.M)], received


def in_flight(server: Gateway) -> str:
    """The gauge of requests in flight."""
    found = re.search(
        r"^lego_serve_requests_in_flight (\S+)$", httpx2.get(f"{server.url}/metrics", timeout=TIMEOUT_S).text, re.M
    )
    assert found is not None
    return found[1]


REFUSED = {
    "a line that goes on in the next": (request(LENGTH, "X-A: b\r\n c"), 400),
    "lines without CR": (request(LENGTH).replace(b"\r\n", b"\n"), 400),
    "one line without CR": (request(LENGTH, "X-A: b\nX-B: c"), 400),
    "a last line without CR": (request(LENGTH).replace(b"\r\n\r\n", b"\n\r\n", 1), 400),
    "a CR alone": (request(LENGTH, "X-A: b\rX-B: c"), 400),
    "NUL in a value": (request(LENGTH, "X-A: b\0c"), 400),
    "NUL in the target": (request(LENGTH, first="POST /v1/images/\0generations HTTP/1.1"), 400),
    "no colon": (request(LENGTH, "X-A"), 400),
    "no name": (request(LENGTH, ": b"), 400),
    "a control character in a name": (request(LENGTH, "X\x01: b"), 400),
    "a name beyond ASCII": (request(LENGTH, "X\xc3: b"), 400),
    "a space before the colon": (request("Content-Length : 15"), 400),
    "a negative length": (request("Content-Length: -1"), 400),
    "a length with a sign": (request("Content-Length: +15"), 400),
    "a length in hex": (request("Content-Length: 0xf"), 400),
    "a length of other digits": (request("Content-Length: \xb2"), 400),
    "a length with underscores": (request("Content-Length: 1_5"), 400),
    "a length of nothing": (request("Content-Length: "), 400),
    "a length beyond numbers": (request("Content-Length: " + "9" * 30), 400),
    "two equal lengths": (request(LENGTH, LENGTH), 400),
    "two lengths": (request(LENGTH, "Content-Length: 3"), 400),
    "two lengths in one": (request(f"{LENGTH}, {len(IMAGE)}"), 400),
    "a length and chunks": (request(LENGTH, CHUNKED, body=b"0\r\n\r\n" + SMUGGLED), 400),
    "chunks over HTTP/1.0": (request(CHUNKED, first=POST[:-1] + "0", body=b"0\r\n\r\n" + SMUGGLED), 400),
    "chunks twice": (request("Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n" + SMUGGLED), 501),
    "chunks and identity": (request(CHUNKED, "Transfer-Encoding: identity", body=b"0\r\n\r\n" + SMUGGLED), 501),
    "an unknown coding": (request("Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + SMUGGLED), 501),
    "a coding behind a control character": (request("Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 400),
    "a negative chunk": (request(CHUNKED, body=b"-5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk in 0x": (request(CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk longer than it says": (request(CHUNKED, body=b"5\r\nhelloXX0\r\n\r\n"), 400),
    "a chunk that ends without CR": (request(CHUNKED, body=b"5\nhello\n0\n\n"), 408),
    "a chunk larger than all there is": (request(CHUNKED, body=b"f" * 16 + b"\r\n{}"), 408),
    "no host": (request(LENGTH, host=""), 400),
    "two hosts": (request(LENGTH, "Host: other"), 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/1.2": (request(LENGTH, first=POST[:-1] + "2"), 505),
    "HTTP/3.0": (request(LENGTH, first=POST[:-3] + "3.0"), 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "no target": (request(LENGTH, first="POST HTTP/1.1"), 400),
    "a space in the target": (request(LENGTH, first="POST /v1/ images HTTP/1.1"), 400),
    "bytes beyond ASCII in the target": (request(LENGTH, first="GET /v1/models/\xc3\xa9 HTTP/1.1"), 400),
    "a method of no letters": (request(LENGTH, first="G@T /v1/models HTTP/1.1"), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400),
    "SSH": (b"SSH-2.0-OpenSSH_9\r\n", 408),
    "RESP": (b"*1\r\n$4\r\nPING\r\n", 408),
    "every byte": (bytes(range(256)), 400),
    "a hundred and twenty headers": (request(LENGTH, *(f"X-{i}: b" for i in range(120))), 431),
    "40 KiB of headers": (request(LENGTH, *(f"X-{i}: {'b' * 1000}" for i in range(40))), 431),
    "a header of 40 KiB": (request(LENGTH, "X-A: " + "b" * 40_000), 431),
    "a target of 9 KB": (request(LENGTH, first=f"GET /v1/models?{'a' * 9000} HTTP/1.1"), 414),
    "a body too large that asks first": (request("Content-Length: 300000000", "Expect: 100-continue", body=b""), 413),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_request_is_refused_once(server: Gateway, kind: str) -> None:
    """One answer with one status, whatever follows on the connection, which ends; no job, and nothing in flight."""
    sent, status = REFUSED[kind]
    started, jobs = server.live.now(), len(server.runner.jobs)
    statuses, received = exchange(server, sent)
    assert statuses == [status], received
    assert b"onnection: close" in received
    assert server.live.now() - started < 5
    assert len(server.runner.jobs) == jobs
    assert wait_for(lambda: in_flight(server) == "0.0")  # the application hears of it after the client


NOT_FOR_US = {  # a request, that no route takes
    "a method in small letters": ("post /v1/images/generations HTTP/1.1", 405),
    "a method of 5 kB": (f"{'A' * 5000} /v1/images/generations HTTP/1.1", 405),
    "TRACE": ("TRACE /v1/models HTTP/1.1", 405),
    "CONNECT": ("CONNECT localhost:443 HTTP/1.1", 404),
    "all of the server": ("OPTIONS * HTTP/1.1", 404),
    "backslashes": ("GET \\v1\\models HTTP/1.1", 404),
    "a way up": ("GET /v1/../metrics HTTP/1.1", 404),
    "a fragment": ("GET /v1/models#a HTTP/1.1", 404),
    "escapes that are none": ("GET /v1/models/%zz HTTP/1.1", 404),
    "an escaped NUL": ("GET /v1/models/%00 HTTP/1.1", 404),
    "escaped bytes that are no UTF-8": ("GET /v1/models/%ff HTTP/1.1", 404),
    "an escaped way up": ("GET /v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1", 404),
    "two slashes": ("GET //v1/models HTTP/1.1", 404),
}


@pytest.mark.parametrize("kind", NOT_FOR_US)
def test_what_no_route_takes_is_404_or_405(server: Gateway, kind: str) -> None:
    """However it is written."""
    first, status = NOT_FOR_US[kind]
    statuses, received = exchange(server, request("Connection: close", first=first, body=b""))
    assert statuses == [status], received
    assert b"passwd" not in received


READ_HEADERS = {  # bytes that are no UTF-8 in each header that the gateway reads, or that Ray would
    "Authorization": 200, "X-Request-Id": 200, "Content-Type": 415, "Content-Encoding": 415, "Host": 400,
    "Origin": 403, "Sec-Fetch-Site": 403, "Expect": 200, "Prefer": 200, "Idempotency-Key": 400, "Range": 200,
    "If-None-Match": 200, "Last-Event-ID": 200, "traceparent": 200, "tracestate": 200, "X-Forwarded-For": 200,
    "x-request-timeout-seconds": 200, "serve_multiplexed_model_id": 200, "x-session-id": 200,
    "x-request-disconnect-disabled": 200,
}  # fmt: skip


@pytest.mark.parametrize("name", READ_HEADERS)
def test_bytes_that_are_no_text_in_a_header_are_no_5xx(server: Gateway, name: str) -> None:
    """They are refused where the header matters, and nothing where it does not; none comes back."""
    host = "" if name == "Host" else "Host: localhost"
    sent = request(LENGTH, "Connection: close", f"{name}: \xff\xfe\xc3", host=host)
    if name == "Content-Type":
        sent = sent.replace(b"Content-Type: application/json\r\n", b"")
    statuses, received = exchange(server, sent)
    assert statuses == [READ_HEADERS[name]], received
    assert b"\xff\xfe" not in received


@pytest.mark.parametrize(
    "line",
    [
        "x-request-timeout-seconds: 0",
        "x-request-disconnect-disabled: ?1",
        "serve_multiplexed_model_id: ../other",
        "x-cache-hit: true",
        "x-lego-cache-key: 0123",
        "x-http-method-override: DELETE",
        "x-original-url: /v1/admin/jobs",
    ],
)
def test_headers_of_others_have_no_effect(server: Gateway, line: str) -> None:
    """Ray's own, claims about caches, and what rewrites requests elsewhere: the same image is made."""
    statuses, _ = exchange(server, request(LENGTH, "Connection: close", line))
    assert statuses == [200]
    assert server.runner.jobs[-1].inputs["prompt"] == "a"


def test_a_thousand_pipelined_requests_keep_nobody_waiting(server: Gateway) -> None:
    """All are answered in their order, and another client's request goes in between."""
    ask = head("GET", "/health/live")
    with server.connect() as connection:
        reader = Reader(connection)
        connection.sendall(ask * 999 + head("GET", "/nope", "Connection: close"))
        assert reader.answer().status == 200
        started = server.live.now()
        assert httpx2.get(f"{server.url}/health/live", timeout=TIMEOUT_S).status_code == 200
        assert server.live.now() - started < 5.0
        assert [reader.answer().status for _ in range(999)] == [200] * 998 + [404]
