"""Clients that are slow, silent, too many, or send what nobody reads."""

import contextlib
import random
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.gateway.transport.limits import ConnectionLimits
from tests.support.gateway.wire import IMAGE, TIMEOUT_S, Gateway, Reader, gateway, generation, head, is_closed, wait_for

GET = head("GET", "/health/live")


def test_a_slow_head_is_408_however_it_drips() -> None:
    """Each byte is in time and the whole is not; a silent connection ends without an answer."""
    with gateway(head_timeout_s=0.4) as server:
        with server.connect() as silent:
            assert Reader(silent).rest() == b""
        with server.asked(GET) as connection:
            reader = Reader(connection)
            assert reader.answer().status == 200
            for byte in GET:  # which takes longer than a head may; it is answered meanwhile
                if has_come(connection, 0.02):
                    break
                connection.send(bytes([byte]))
            assert reader.answer().code == "request_timeout"
            assert is_closed(connection)


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/images/edits", "/nope"])
def test_a_slow_body_is_408_or_closed(path: str) -> None:
    """Its request is told off where it waits for it; where it was answered before, the connection ends."""
    media = "application/json" if "generations" in path else "multipart/form-data; boundary=x"
    with gateway(body_timeout_s=0.3, body_bytes_per_s=1_000_000) as server, server.connect() as connection:
        connection.sendall(head("POST", path, f"Content-Type: {media}", "Content-Length: 5000") + b"--x\r\n")
        answer = Reader(connection).answer()
        assert answer.code == ("route_not_found" if path == "/nope" else "request_timeout")
        assert is_closed(connection)


def test_a_long_body_has_time_for_each_byte_that_came() -> None:
    """One that keeps to the rate takes longer than the timeout and is served."""
    with gateway(body_timeout_s=1.0, body_bytes_per_s=50) as server, server.connect() as connection:
        request = generation(body=IMAGE + b" " * 40)
        connection.sendall(request[:-40])
        for byte in request[-40:]:
            time.sleep(0.03)
            connection.send(bytes([byte]))
        assert Reader(connection).answer().status == 200


def test_an_idle_connection_is_kept_and_then_closed() -> None:
    """For the time between two requests that is configured, not for that of a head; also after an unwanted body."""
    with gateway(keep_alive_s=0.6, head_timeout_s=0.1) as server, server.connect() as connection:
        reader = Reader(connection)
        for request in (GET, head("POST", "/nope", "Content-Length: 9") + b"unwanted!", GET):
            connection.sendall(request)
            reader.answer()
            time.sleep(0.3)
        started = server.live.now()
        assert is_closed(connection)
        assert server.live.now() - started < 3


@pytest.mark.parametrize(("path", "status"), [("/v1/images/generations", 413), ("/nope", 404), ("/v1/models", 405)])
@pytest.mark.parametrize("is_announced", [True, False])
def test_a_body_that_nobody_wants_is_not_read_to_its_end(path: str, status: int, is_announced: bool) -> None:
    """Its answer comes, says that the connection ends, and 300 MB are not taken; an announced one is 413 anywhere."""
    with gateway(linger_s=0.2) as server, server.connect() as connection:
        size = "Content-Length: 300000000" if is_announced else "Transfer-Encoding: chunked"
        connection.sendall(head("POST", path, "Content-Type: application/json", size))
        sent, part = 0, b"%x\r\n%b\r\n" % (100_000, b" " * 100_000)
        try:
            while sent < 300_000_000:
                sent += connection.send(part)
        except OSError:
            pass
        assert sent < 50_000_000
        answer = Reader(connection).answer()
        assert (answer.status, answer.headers["connection"]) == (413 if is_announced else status, "close")


def test_a_client_that_sends_all_before_it_reads_has_its_answer() -> None:
    """Of a body of any size that may be sent, though its answer comes first and the connection ends."""
    with gateway(linger_bytes=20_000_000) as server, server.connect() as connection:
        connection.sendall(head("POST", "/nope", "Content-Length: 10000000") + b" " * 10_000_000)
        answer = Reader(connection).answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")


def test_a_small_body_that_nobody_wants_does_not_cost_the_connection() -> None:
    """It is read and dropped."""
    with gateway() as server, server.connect() as connection:
        reader = Reader(connection)
        for path in ("/nope", "/health/live", "/v1/images/generations"):
            connection.sendall(head("POST", path, "Content-Length: 50000") + b"a" * 50_000)
            assert reader.answer().status in (404, 405, 415)


def test_a_client_that_asks_before_it_sends_its_body_is_told() -> None:
    """To go on, where the body is wanted; else it has its answer, and the connection ends rather than mix up bodies."""
    asking = generation("Expect: 100-continue")
    with gateway() as server:
        with server.connect() as connection:
            reader = Reader(connection)
            connection.sendall(asking[: -len(IMAGE)])
            assert reader.answer().status == 100
            connection.sendall(IMAGE)
            assert reader.answer().status == 200
        with server.connect() as connection:
            connection.sendall(head("POST", "/nope", "Content-Length: 9", "Expect: 100-continue"))
            answer = Reader(connection).answer()
            assert (answer.status, answer.headers["connection"]) == (404, "close")


def test_a_pipeline_whose_client_reads_nothing_is_closed() -> None:
    """However many answers wait."""
    with gateway(write_timeout_s=0.3, keep_alive_s=0.5) as server, server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.5)
        try:
            for _ in range(2000):
                connection.sendall(head("GET", "/openapi.json") * 10)
        except OSError:
            pass
        assert wait_for(lambda: not server.live.server.server_state.connections)


@contextmanager
def asked_for_much(*lines: str, **limits: float) -> Iterator[tuple[Gateway, socket.socket]]:
    """A gateway, and a connection on which it has megabytes to write that no buffer of a system takes."""
    with gateway(**limits) as server:
        server.runner.pixels = random.Random(1).randbytes
        server.live._bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        with server.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(generation(*lines, body=b'{"prompt": "a", "size": "256x256", "n": 8}'))
            yield server, connection


def read_now_and_then(connection: socket.socket, size: int, pause_s: float, until_s: float) -> bytes:
    """What comes by a little at a time for some seconds, and then as fast as it may."""
    received, started = b"", time.monotonic()
    while got := connection.recv(size):
        received += got
        if time.monotonic() - started < until_s:
            time.sleep(pause_s)
    return received


def test_a_reader_that_is_slow_and_reads_gets_all_of_a_large_answer() -> None:
    """Longer than the time that it may be late."""
    with asked_for_much("Connection: close", write_timeout_s=1.0, write_bytes_per_s=10_000) as (_, connection):
        received = read_now_and_then(connection, 4096, 0.02, until_s=3)
        start, _, rest = received.partition(b"\r\n\r\n")
        assert start.startswith(b"HTTP/1.1 200 ")
        assert len(rest) == int(start.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) > 10**6


@pytest.mark.parametrize("lines", [("Connection: close",), ()], ids=["closing", "kept"])
def test_a_reader_that_takes_a_little_now_and_then_is_closed(lines: tuple[str, ...]) -> None:
    """Whoever holds a large answer by a segment each time that it would be closed for reading nothing."""
    with asked_for_much(*lines, write_timeout_s=1.0, write_bytes_per_s=200_000) as (server, connection):
        received, started = 0, time.monotonic()
        with contextlib.suppress(ConnectionError):
            while (got := len(connection.recv(2048))) and time.monotonic() - started < TIMEOUT_S:
                received += got
                time.sleep(0.2)
        assert wait_for(lambda: not server.live.server.server_state.connections)
        assert 2048 < received < 10**6


def test_an_address_has_so_many_connections_and_no_more() -> None:
    """One more is 429 with the time to try again; one that ends makes room."""
    with gateway(connections_per_address=2) as server:
        first, second = server.connect(), server.connect()
        with first, server.connect() as third:
            answer = Reader(third).answer()
            assert (answer.status, answer.code) == (429, "too_many_connections")
            assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
            assert ask_on(second) == 200
            second.close()
            assert wait_for(lambda: len(server.live.server.server_state.connections) < 2)
            assert httpx2.get(f"{server.url}/health/live", timeout=TIMEOUT_S).status_code == 200


def has_come(connection: socket.socket, within_s: float) -> bool:
    """Whether the server sends something in that time."""
    return bool(select.select([connection], [], [], within_s)[0])


def ask_on(connection: socket.socket) -> int:
    """The status of a request on a connection."""
    connection.sendall(GET)
    return Reader(connection).answer().status


def test_a_burst_earns_a_body_no_time_in_which_nothing_comes() -> None:
    limits = ConnectionLimits(body_timeout_s=30, body_bytes_per_s=1000)
    assert limits.body_deadline(30.0, 1.0, 50_000_000) == 31.0
    assert limits.body_deadline(31.0, 20.0, 5000) == 36.0


def test_a_body_that_keeps_its_rate_may_go_on() -> None:
    limits = ConnectionLimits(body_timeout_s=30, body_bytes_per_s=1000)
    deadline = 30.0
    for second in range(1, 1000):
        deadline = limits.body_deadline(deadline, float(second), 1000)
        assert deadline == second + 30.0


@given(st.lists(st.tuples(st.floats(0.01, 60), st.integers(0, 10**7)), max_size=50))
def test_an_answer_may_be_so_late_and_no_later(checks: list[tuple[float, int]]) -> None:
    """A client is cut off only where it is behind by the timeout, and after that much silence in any case."""
    limits = ConnectionLimits(write_timeout_s=60, write_bytes_per_s=1000)
    now, deadline, owed_s = 0.0, 60.0, 0.0
    for passed_s, taken in checks:
        now += passed_s
        owed_s = max(0.0, owed_s + passed_s - taken / 1000)
        deadline = limits.write_deadline(deadline, now, taken)
        assert deadline <= now + 60
        assert deadline == pytest.approx(now + 60 - owed_s)
