"""The short way for ordinary requests and answers: it declines, or says and does what h11 does."""

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES
from uvicorn.server import ServerState

from lego_serve.gateway.transport.limits import AddressCounts, ConnectionLimits
from lego_serve.gateway.transport.ordinary import ordinary_answer, ordinary_head
from lego_serve.gateway.transport.parser import RequestParser
from lego_serve.gateway.transport.protocol import GatewayProtocol

SMALL = ConnectionLimits(head_bytes=400, headers=6, target_bytes=40)
ORDINARY = b"POST /v1?0 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
FIRST = [
    b"GET / HTTP/1.1", b"POST /a?1 HTTP/1.1", b"HEAD / HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"CONNECT /a HTTP/1.1",
    b"GET / HTTP/1.0", b"GET / HTTP/1.2", b"OPTIONS * HTTP/1.1", b"GET http://b/c HTTP/1.1", b"GET  / HTTP/1.1",
    b"g@t / HTTP/1.1", b"get /" + b"a" * 40 + b" HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET / http/1.1", b"",
]  # fmt: skip
USUAL = [b"GET / HTTP/1.1", b"POST /%20? HTTP/1.1", b"HEAD / HTTP/1.1", b"POST /?1 HTTP/1.1", b"GET /?-1 HTTP/1.1"]
PLAIN = [b"Accept: x, y", b"X-A:  b  ", b"X-C:", b"Connection: Keep-Alive"]
LINES = [
    b"Host: a", b"host:b:80", b"HOST:", b"Accept: x, y", b"X-A:  b  ", b"X-A: b\tc", b"X-A:\tb", b"X-B: \xff", b"X-C:",
    b"X : a", b" X: a", b": a", b"X", b"X-D: a\x00", b"X-D: a\x0bb", b"X-E: " + b"e" * 90, b"Connection: close",
    b"Connection: Keep-Alive", b"Connection: keep-alive, close", b"Connection: upgrade", b"Upgrade: websocket",
    b"Expect: 100-continue", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Content-Length: 3",
    b"Content-Length: 03", b"Content-Length: 0", b"Content-Length: +3", b"Content-Length: 3, 3", b"Content-Length:",
    b"Content-Length: 1000000000000000000", b"content-length: 4",
]  # fmt: skip
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\n ", b"\r\r\n"])
BODIES = st.sampled_from([b"", b"abc", b"ab", b"abcd", b"3\r\nabc\r\n0\r\n\r\n", b"\r\n", ORDINARY])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Something like a request: every other one is, others nearly."""
    if draw(st.booleans()):
        lines = [
            draw(st.sampled_from(USUAL)),
            b"Host: a",
            *draw(st.lists(st.sampled_from(PLAIN), unique=True, max_size=3)),
        ]
        body = draw(st.sampled_from([b"", b"abc", b"ab"]))
        length = [b"Content-Length: %d" % len(body)] if body else []
        return b"\r\n".join([*lines, *length, b"", body])
    lines = [draw(st.sampled_from(FIRST[:3] * 5 + FIRST)), *draw(st.lists(st.sampled_from(LINES), max_size=7))]
    if draw(st.booleans()):
        lines.insert(1, b"Host: a")
    data = b"".join(line + draw(ENDS) for line in lines) + draw(ENDS) + draw(BODIES)
    if draw(st.integers(0, 7)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 2)) :]
    return data


def events_of(parser: RequestParser) -> tuple[list[Any], bytes]:
    """What h11 reads: the request's parts, and its body; fails with what it refuses."""
    request, body = parser.next_event(), b""
    assert isinstance(request, h11.Request)
    while isinstance(event := parser.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage) or event is h11.NEED_DATA
    return [request.method, request.target, list(request.headers), request.http_version], body


def state_of(parser: RequestParser) -> tuple[Any, ...]:
    """All that a parser goes on with."""
    facts = parser._cstate.states, parser._cstate.keep_alive, parser._cstate.pending_switch_proposals
    ways = getattr(parser._reader, "__dict__", parser._reader), type(parser._writer), parser._request_method
    counted = parser.requests, parser.body_bytes, parser._chunks, bytes(parser._receive_buffer), parser._searched
    said = parser.their_http_version, parser.they_are_waiting_for_100_continue, parser.is_streaming_events
    return *facts, *ways, *counted, *said


@given(requests() | st.binary(max_size=200))
def test_it_declines_or_reads_what_h11_reads(data: bytes) -> None:
    """The same request and body, and the parser goes on as if h11 had read it."""
    short, long = RequestParser(SMALL), RequestParser(SMALL)
    fresh = state_of(short)
    head = short.take_ordinary(data)
    if head is None:
        assert state_of(short) == fresh
        return
    rest = data[head.size :]
    if not short.awaits_answer and rest:
        short.receive_data(rest)
        while short.next_event() is not h11.NEED_DATA:
            pass
    long.receive_data(data)
    request, body = events_of(long)
    assert request == [head.method, head.target, head.headers, b"1.1"]
    assert (body, len(body) == head.body_bytes) == (rest, short.awaits_answer)
    assert state_of(short) == state_of(long)


@pytest.mark.parametrize("line", [b"", b"Accept: */*\r\nConnection: keep-alive\r\nUser-Agent: OpenAI/Python 3.52\r\n"])
@pytest.mark.parametrize("body", [b"abc", b"ab", b""])
def test_it_takes_what_clients_send(line: bytes, body: bytes) -> None:
    """A request whole or without the end of its body; of a second one behind it nothing."""
    data = ORDINARY.replace(b"Content", line + b"Content").replace(b"abc", body)
    assert RequestParser(SMALL).take_ordinary(data) is not None
    assert RequestParser(SMALL).take_ordinary(ORDINARY + data) is None


@pytest.mark.parametrize("line", [line for line in LINES if b"Host" not in line])
def test_each_odd_line_is_for_h11(line: bytes) -> None:
    """All but those of printable characters, once, that frame nothing."""
    plain = (b"host:b:80", b"HOST:", *PLAIN)
    lengths = (b"Content-Length: 3", b"Content-Length: 03", b"Content-Length: 0", b"content-length: 4")
    host = b"" if line.lower().startswith(b"host") else b"Host: a\r\n"
    found = ordinary_head(b"GET / HTTP/1.1\r\n" + host + line + b"\r\n\r\n", SMALL)
    assert (found is not None) == (line in (*plain, *lengths) or line.startswith(b"X-E"))


NAMES = [
    b"content-type", b"Content-Length", b"content-length", b"x-a", b"Set-Cookie", b"connection", b"transfer-encoding",
    b"host", b"x b", b"", b"x\r\ny",
]  # fmt: skip
VALUES = [b"3", b"03", b"a b", b"", b" a", b"a ", b"a\tb", b"a\r\nb: c", b"a\n", b"\xff", b"close", b"chunked", b"+3"]
HEADERS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.binary(max_size=3)), max_size=4)


@given(st.integers(100, 999), HEADERS, st.booleans(), st.binary(min_size=3, max_size=3))
def test_an_answer_is_declined_or_the_bytes_of_h11(
    status: int, headers: list[tuple[bytes, bytes]], is_long: bool, body: bytes
) -> None:
    """And the connection is ready for the next request in the same way."""
    headers = [*headers, (b"content-length", b"3")] if is_long else headers
    found = ordinary_answer(status, STATUS_PHRASES.get(status, b""), headers)
    if found is None:
        return
    short, long = RequestParser(SMALL), RequestParser(SMALL)
    for parser in (short, long):
        assert parser.take_ordinary(ORDINARY) is not None
    head, length = found
    response = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
    written = long.send(response)
    assert (written, length) == (head, 3)
    assert written + long.send(h11.Data(data=body)) + long.send(h11.EndOfMessage()) == head + body
    short.note_answer()
    for parser in (short, long):
        parser.start_next_cycle()
    assert state_of(short) == state_of(long)


class Wire(asyncio.Transport):
    """A connection whose other end keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it, while both ends are there."""
        self.written += b"" if self.closed else data

    def close(self) -> None:
        """End."""
        self.closed = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        """Whether it has ended."""
        return self.closed

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def get_write_buffer_size(self) -> int:
        """Everything is taken."""
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Nothing is known of it."""
        return default

    def pause_reading(self) -> None:
        """Nothing more comes by itself."""

    def resume_reading(self) -> None:
        """Nothing more comes by itself."""


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the request as it came, in one of the ways in which answers go out."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    told = [scope[name] for name in ("method", "path", "query_string", "raw_path", "headers", "http_version")]
    said = json.dumps([*told, body], default=repr).encode()
    length = (b"content-length", b"%d" % len(said))
    headers = [(b"content-type", b"text/plain"), *([] if scope["query_string"] else [length])]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if body == b"ab":
        await asyncio.sleep(0)
    half = len(said) // 2 if scope["method"] == "POST" else len(said)
    for part in filter(None, (said[:half], said[half:])):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"} if half < len(said) else {"type": "http.response.body", "body": b""})


async def whole(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as most routes do: a head and a body; or one of another length, or nothing but the head."""
    message = await receive()
    said = repr([scope["method"], scope["path"], scope["headers"], message]).encode()
    headers = [(b"content-length", b"%d" % (len(said) + int(scope["query_string"] or b"0")))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/a":
        raise RuntimeError("what happens now")
    await send({"type": "http.response.body", "body": said})


async def exchange(parts: Sequence[bytes], app: Any, *, is_short: bool) -> tuple[bytes, bool]:
    """All that a gateway's protocol answers to bytes that come in parts, and whether it ends the connection."""
    config = Config(app, access_log=False, log_level="critical", server_header=False)
    kind = GatewayProtocol if is_short else type("Long", (GatewayProtocol,), {"begin_ordinary": lambda *_: False})
    state, wire = ServerState(), Wire()
    protocol = kind(config, state, {}, limits=SMALL, addresses=AddressCounts(9))
    protocol.connection_made(wire)
    for part in parts:
        if not wire.closed:
            protocol.data_received(part)
        for _ in range(12):
            await asyncio.sleep(0)
    protocol.connection_lost(None)
    for task in state.tasks:
        task.cancel()
    await asyncio.gather(*state.tasks, return_exceptions=True)
    return wire.written, wire.closed


@example([b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"], [], False)
@example([b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"], [], False)
@example([b"GET /?1 HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /?-1 HTTP/1.1\r\nHost: a\r\n\r\n"], [], False)
@example([ORDINARY, ORDINARY, ORDINARY + ORDINARY], [20, 90], True)
@given(st.lists(requests(), min_size=1, max_size=3), st.lists(st.integers(0, 600), max_size=3), st.booleans())
def test_a_connection_goes_the_same_with_it_and_without(wanted: list[bytes], cuts: list[int], is_echo: bool) -> None:
    """Whatever comes, in whichever parts: the same bytes come back, but for their ids, and the same end."""
    data = b"".join(wanted)
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts = wanted if not cuts else [data[a:b] for a, b in pairwise(ends) if a < b]
    app = echo if is_echo else whole

    async def both() -> None:
        short, long = [await exchange([part for part in parts if part], app, is_short=short) for short in (True, False)]
        assert without_ids(short[0]) == without_ids(long[0])
        assert short[1] == long[1]

    asyncio.run(both())


def without_ids(answers: bytes) -> list[bytes]:
    """The lines of answers, without the ids that are drawn for each refusal."""
    return [line for line in answers.split(b"\r\n") if not line.startswith(b"x-request-id: ")]
