"""What is refused before it is a request, and how."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.gateway.transport.limits import ConnectionLimits
from lego_serve.gateway.transport.parser import RequestParser
from tests.support.gateway.wire import ask, gateway, generation, head

SMALL = ConnectionLimits(head_bytes=2048, headers=10, target_bytes=300)
GET = head("GET", "/health/live")


def status_of(data: bytes, limits: ConnectionLimits = SMALL) -> int:
    """What the parser says to the beginning of a connection; 200 where it is a request."""
    parser = RequestParser(limits)
    parser.receive_data(data)
    try:
        return 200 if isinstance(parser.next_event(), h11.Request) else 0
    except h11.RemoteProtocolError:
        return parser.refusal.status


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (GET, 200),
        (head("GET", "/" + "a" * 299), 200),
        (head("GET", "/" + "a" * 300), 414),
        (b"GET /" + b"a" * 3000, 414),
        (head("GET", "/", *(f"A{i}: b" for i in range(9))), 200),
        (head("GET", "/", *(f"A{i}: b" for i in range(10))), 431),
        (head("GET", "/", f"A: {'b' * 2100}"), 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 3000, 431),
        (head("POST", "/", "Content-Length: 3", "Transfer-Encoding: chunked"), 400),
        (head("POST", "/", "Transfer-Encoding: chunked", version="1.0"), 400),
        (head("POST", "/", "Transfer-Encoding: gzip"), 501),
        (head("POST", "/", "Content-Length: 3", "Content-Length: 4"), 400),
        (head("GET", "/", version="2.0"), 505),
        (head("GET", "/", "Host: other"), 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"GET / HTTP/1.1", 0),
        (b"\r\n" + GET, 200),
        (b"\r\n\r\n" + GET, 400),
        (head("GET", "http://[::1/"), 400),
    ],
)
def test_a_head_is_within_its_limits_or_has_a_status(request_bytes: bytes, status: int) -> None:
    """The target alone is 414, all of the head 431, what nobody can read 400."""
    assert status_of(request_bytes) == status


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        ("http://a.example:80/v1?b=c", b"/v1?b=c", b"a.example:80"),
        ("HTTPS://a.example", b"/", b"a.example"),
        ("/http://a.example", b"/http://a.example", b"localhost"),
    ],
)
def test_a_target_may_be_a_whole_url(target: str, path: bytes, host: bytes) -> None:
    """Its host counts, not that of the header."""
    parser = RequestParser(SMALL)
    parser.receive_data(head("GET", target))
    event = parser.next_event()
    assert isinstance(event, h11.Request)
    assert (event.target, dict(event.headers)[b"host"]) == (path, host)


def test_a_line_of_a_chunk_is_no_header() -> None:
    """One without end is 400."""
    parser = RequestParser(SMALL)
    parser.receive_data(head("POST", "/", "Transfer-Encoding: chunked") + b"5;" + b"a" * 3000)
    assert isinstance(parser.next_event(), h11.Request)
    with pytest.raises(h11.RemoteProtocolError):
        parser.next_event()
    assert parser.refusal.status == 400


@pytest.mark.parametrize(("size", "status"), [(1, 400), (100, 400), (1000, 200)])
def test_a_body_of_many_small_chunks_is_refused(size: int, status: int) -> None:
    """Each takes the time of a large one; a few thousand may be of any size."""
    parser = RequestParser(SMALL)
    parser.receive_data(head("POST", "/", "Transfer-Encoding: chunked"))
    assert isinstance(parser.next_event(), h11.Request)
    try:
        for _ in range(80):
            parser.receive_data(b"%x\r\n%b\r\n" % (size, b"a" * size) * 100)
            while parser.next_event() is not h11.NEED_DATA:
                pass
    except h11.RemoteProtocolError:
        assert status == parser.refusal.status
        assert parser.body_bytes > 4000 * size
    else:
        assert status == 200


@given(st.binary(max_size=4000))
def test_any_bytes_are_a_request_or_a_refusal(data: bytes) -> None:
    """Nothing else is raised."""
    assert status_of(b"GET / HTTP/1.1\r\nHost: " + data + b"\r\n\r\n") in (200, 400, 431, 501)


def test_refusals_have_the_shape_of_every_error() -> None:
    """Each has a code, a request's id, and closes the connection."""
    with gateway(head_bytes=2048, target_bytes=300) as server:
        for request, status, code in (
            (head("GET", "/" + "a" * 400), 414, "uri_too_long"),
            (head("GET", "/", f"A: {'b' * 5000}"), 431, "headers_too_large"),
            (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400, "bad_request"),
            (b"\x16\x03\x01\x02\x00\x01", 400, "bad_request"),
            (generation("Transfer-Encoding: gzip"), 501, "unsupported_transfer_encoding"),
            (head("GET", "/", version="2.0"), 505, "http_version_not_supported"),
        ):
            answer = ask(server, request)
            assert (answer.status, answer.code, answer.headers["connection"]) == (status, code, "close")
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_broken_body_is_told_while_its_request_waits_for_it() -> None:
    """The application hears that the client has left, and the client what is wrong."""
    with gateway() as server:
        broken = head("POST", "/v1/images/generations", "Content-Type: application/json", "Transfer-Encoding: chunked")
        assert ask(server, broken + b"zz\r\n").code == "bad_request"
        assert server.runner.jobs == []


def test_a_large_head_is_refused_long_before_its_end() -> None:
    """Of headers without end a few thousand bytes are taken; 20 MB are not."""
    with gateway(head_bytes=2048, linger_s=0.2) as server, server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        sent = 0
        try:
            while sent < 20_000_000:
                sent += connection.send(b"A: " + b"b" * 100_000 + b"\r\n")
        except OSError:
            pass
        assert sent < 20_000_000
