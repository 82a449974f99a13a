"""Connections: upgrades, half-closed clients, clients that have left, and what old clients send."""

import asyncio
import socket
import time

import pytest

from lego_serve.core.jobs.job import JobProgress
from tests.support.gateway.wire import (
    IMAGE,
    Reader,
    ask,
    gateway,
    generation,
    head,
    is_closed,
    wait_for,
)

GET = head("GET", "/health/live")
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAA")


@pytest.mark.parametrize("upgrade", [H2C, ("Connection: Upgrade", "Upgrade: websocket"), ("Upgrade: TLS/1.2",)])
@pytest.mark.parametrize("size", [(), ("Transfer-Encoding: chunked",)])
@pytest.mark.parametrize("parts", [1, 2])
def test_an_offer_of_another_protocol_is_declined_by_an_answer(
    upgrade: tuple[str, ...], size: tuple[str, ...], parts: int
) -> None:
    """Over HTTP/1.1, whichever way its body comes, and the connection goes on."""
    request = generation(*upgrade, *size)
    middle = request.index(b"\r\n\r\n") + 4 if parts == 2 else len(request)
    with gateway() as server, server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = Reader(connection)
        connection.sendall(request[:middle])
        time.sleep(0.05)
        connection.sendall(request[middle:])
        assert reader.answer().status == 200
        for again in (generation(), request, GET):
            connection.sendall(again)
            assert reader.answer().status == 200


@pytest.mark.parametrize("body", [IMAGE, b'{"prompt": "a", "stream": true}'])
def test_a_client_that_ends_its_sending_side_gets_its_answer(body: bytes) -> None:
    """Nothing but the answer where that is quick."""
    with gateway() as server, server.connect() as connection:
        connection.sendall(generation(body=body))
        connection.shutdown(socket.SHUT_WR)
        answer = Reader(connection).rest()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"b64_json" in answer


def test_pipelined_requests_are_answered_after_the_clients_fin() -> None:
    """All of them, in their order; then the connection ends."""
    with gateway() as server, server.connect() as connection:
        connection.sendall(generation() + GET + generation())
        connection.shutdown(socket.SHUT_WR)
        assert Reader(connection).rest().count(b"HTTP/1.1 200") == 3


def test_a_slow_answer_to_a_client_that_has_ended_its_sending_side_is_preceded_by_a_sign_of_life() -> None:
    """Interim answers ask whether it is there; its job goes on."""
    with gateway(half_close_grace_s=0.1) as server, server.connect() as connection:
        server.runner.gate = asyncio.Event()
        connection.sendall(generation())
        connection.shutdown(socket.SHUT_WR)
        reader = Reader(connection)
        assert reader.answer().status == 100
        time.sleep(0.3)
        assert server.runner.cancelled == []
        server.runner.loop.call_soon_threadsafe(server.runner.gate.set)
        assert reader.answer().status == 200


@pytest.mark.parametrize("hang_up", ["close", "reset", "half"])
@pytest.mark.parametrize("lines", [(), H2C])
def test_a_client_that_has_left_ends_its_job(hang_up: str, lines: tuple[str, ...]) -> None:
    """Whether it leaves by a FIN, by a reset, or first with one side and then with the other."""
    with gateway(half_close_grace_s=0.1) as server:
        server.runner.gate = asyncio.Event()
        connection = server.connect()
        connection.sendall(generation(*lines))
        assert wait_for(lambda: server.runner.waiting)
        if hang_up == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if hang_up == "half":
            connection.shutdown(socket.SHUT_WR)
            time.sleep(0.05)
        connection.close()
        assert wait_for(lambda: server.runner.cancelled)


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_stream_goes_on_as_long_as_its_client_is_there(is_whole: bool) -> None:
    """Empty comments between its events ask for the sign of life of a client that has ended its sending side."""
    with gateway(half_close_grace_s=0.1) as server, server.connect() as connection:
        server.runner.progress, server.runner.gate = [JobProgress(0, 1, 2, 1.0)], asyncio.Event()
        connection.sendall(generation(body=b'{"prompt": "a", "stream": true, "stream_progress": true}'))
        while b"image_generation.progress" not in connection.recv(65536):
            pass
        if is_whole:
            connection.close()
            assert wait_for(lambda: server.runner.cancelled)
            return
        connection.shutdown(socket.SHUT_WR)
        sign = b"3\r\n:\n\n\r\n"
        received = connection.recv(65536)
        while len(received) < len(sign):
            received += connection.recv(65536)
        assert received.startswith(sign)
        server.runner.loop.call_soon_threadsafe(server.runner.gate.set)
        assert b"image_generation.completed" in Reader(connection).rest()


def test_a_fin_is_a_hang_up_where_no_sign_of_life_can_be_asked_for() -> None:
    """HTTP/1.0 knows no interim answers, and proxies speak it that leave by FIN."""
    with gateway(half_close_grace_s=60) as server, server.connect() as connection:
        server.runner.gate = asyncio.Event()
        connection.sendall(generation(version="1.0"))
        assert wait_for(lambda: server.runner.waiting)
        connection.shutdown(socket.SHUT_WR)
        assert wait_for(lambda: server.runner.cancelled)


@pytest.mark.parametrize("beginning", [b"", b"GET /hea", GET[:-2], GET + b"GET /", generation()[:-5]])
def test_a_fin_within_a_request_ends_the_connection(beginning: bytes) -> None:
    """There is nothing to answer."""
    with gateway() as server, server.connect() as connection:
        connection.sendall(beginning)
        connection.shutdown(socket.SHUT_WR)
        assert is_closed(connection)
        assert server.runner.jobs == []


@pytest.mark.parametrize("lines", [(), ("Connection: close",)])
def test_a_line_too_many_after_a_body_harms_nothing(lines: tuple[str, ...]) -> None:
    """Old clients send one, with the body or after it."""
    with gateway() as server, server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader, request = Reader(connection), generation(*lines)
        server.runner.gate = asyncio.Event()
        connection.sendall(request)
        assert wait_for(lambda: server.runner.waiting)
        connection.sendall(b"\r\n")
        time.sleep(0.05)
        server.runner.loop.call_soon_threadsafe(server.runner.gate.set)
        assert reader.answer().status == 200
        if not lines:
            connection.sendall(request + b"\r\n" + GET)
            assert (reader.answer().status, reader.answer().status) == (200, 200)


@pytest.mark.parametrize("host", ["a/?#@b", "a b", "a:b", "a:99999", "[::1", "a@b", "a,b"])
def test_a_host_that_is_none_is_400(host: str) -> None:
    """A name with a path, a user or a strange port in it."""
    with gateway() as server:
        request = GET.replace(b"localhost", host.encode())
        assert ask(server, request).status == 400


def test_a_coded_body_is_415() -> None:
    """Of any content coding but none."""
    with gateway() as server:
        assert ask(server, generation("Content-Encoding: gzip")).code == "unsupported_media_type"
        assert ask(server, generation("Content-Encoding: identity")).status == 200
