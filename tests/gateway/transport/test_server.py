"""A gateway that is told to stop answers everybody."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from lego_serve.core.jobs.job import JobProgress
from tests.support.gateway.wire import TIMEOUT_S, Gateway, Reader, ask, gateway, generation, head, wait_for

STREAM = b'{"prompt": "a", "stream": true, "stream_progress": true}'


@contextmanager
def stopping(drain_timeout_s: float, *requests: bytes) -> Iterator[tuple[Gateway, list[Reader]]]:
    """A gateway that has been told to stop while it runs these requests, and their connections."""
    with gateway(drain_timeout_s=drain_timeout_s) as server:
        server.runner.gate = asyncio.Event()
        connections = [server.connect() for _ in requests]
        for connection, request in zip(connections, requests, strict=True):
            connection.sendall(request)
        assert wait_for(lambda: len(server.runner.waiting) == len(requests))
        server.live.server.should_exit = True
        assert wait_for(lambda: server.draining.has_begun)
        yield server, [Reader(connection) for connection in connections]
        for connection in connections:
            connection.close()


def test_while_requests_finish_the_server_says_that_it_stops() -> None:
    """It lives and is not ready, new work is refused, each answer closes its connection, and the old one ends well."""
    with stopping(30.0, generation()) as (server, [first]):
        live, ready = (ask(server, head("GET", f"/health/{name}")) for name in ("live", "ready"))
        assert (live.status, ready.status) == (200, 503)
        refused = ask(server, generation())
        assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "server_stopping", "5")
        assert {each.headers["connection"] for each in (live, ready, refused)} == {"close"}
        assert ask(server, head("GET", "/v1/admin/jobs")).status == 200
        server.runner.loop.call_soon_threadsafe(server.runner.gate.set)
        assert first.answer().status == 200
        assert wait_for(lambda: not server.live.thread.is_alive())


def test_requests_that_need_longer_than_the_stop_are_told_to_come_again() -> None:
    """503 with the time to wait; a stream, which has its status already, gets an event."""
    with stopping(0.3, generation(), generation(body=STREAM)) as (server, [plain, stream]):
        answer = plain.answer()
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "server_stopping", "5")
        rest = stream.rest()
        assert b'"code": "server_stopping"' in rest
        assert len(server.runner.cancelled) == 2


def test_a_stream_that_has_begun_ends_with_an_event() -> None:
    """An error as any other of a stream."""
    with gateway(drain_timeout_s=0.1) as server, server.connect() as connection:
        server.runner.progress, server.runner.gate = [JobProgress(0, 1, 2, 1.0)], asyncio.Event()
        connection.sendall(generation(body=STREAM))
        while b"image_generation.progress" not in connection.recv(65536):
            pass
        server.live.server.should_exit = True
        rest = Reader(connection).rest()
        assert b"event: error" in rest
        assert b"server_stopping" in rest


def test_whatever_else_still_runs_is_answered_too() -> None:
    """A request that waits for its body, or for anything but a job, gets no bare 500."""
    with gateway(drain_timeout_s=0.1) as server, server.connect() as connection:
        server.runner.names_gate = asyncio.Event()
        connection.sendall(generation()[:-5])
        assert wait_for(lambda: server.live.server.server_state.tasks)
        server.live.server.should_exit = True
        answer = Reader(connection).answer()
        assert (answer.status, answer.code) == (503, "server_stopping")


def test_an_idle_server_stops_at_once() -> None:
    """Connections that wait for a next request do not hold it up."""
    with gateway(drain_timeout_s=30) as server, server.connect() as connection:
        connection.sendall(head("GET", "/health/live"))
        assert Reader(connection).answer().status == 200
        started = server.live.now()
        server.live.server.should_exit = True
        server.live.thread.join(TIMEOUT_S)
        assert not server.live.thread.is_alive()
        assert server.live.now() - started < 3
