import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from benchmarks.hostile import wire

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
Serve = Callable[[socket.socket], None]


PATIENCE_S = 60.0  # for what comes, whatever holds the machine up


@contextmanager
def server(serve: Serve) -> Iterator[wire.Address]:
    """Does the same with every connection, each in a thread; they are held open until the end."""
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                held.append(listening.accept()[0])
            except OSError:
                return
            threading.Thread(target=serve, args=(held[-1],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listening.getsockname()
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


def hang_up(connection: socket.socket) -> None:
    """Read a little, answer nothing and close."""
    connection.recv(10)
    connection.close()


def answer(connection: socket.socket) -> None:
    """Answer at once and stay open."""
    connection.recv(10)
    connection.sendall(OK)


def wait(connection: socket.socket) -> None:
    """Do nothing."""


def refuse(connection: socket.socket) -> None:
    """Answer before the request is over, then close."""
    connection.sendall(OK.replace(b"200 OK", b"431 Large"))
    connection.close()


@pytest.mark.parametrize(
    ("received", "status"),
    [(OK, "200"), (b"HTTP/1.1 431 ", "431"), (b"HTTP/1.1", None), (b"", None), (b"\x15\x03\x01 a b", None)],
)
def test_an_answer_is_known_by_its_first_line(received: bytes, status: str | None) -> None:
    """A status where one has come."""
    assert wire.status_of(received) == status


@pytest.mark.parametrize(
    ("serve", "expected"),
    [(hang_up, wire.CLOSED), (answer, "200"), (wait, wire.UNANSWERED)],
)
def test_one_exchange(serve: Serve, expected: str) -> None:
    """A connection is answered, closed, or neither within the limit."""
    with server(serve) as address:
        limit_s = 0.5 if expected == wire.UNANSWERED else PATIENCE_S
        reply = wire.exchange(address, [b"GET / HTTP/1.1\r\n", b"\r\n"], limit_s)
    assert reply.answer == expected
    assert (reply.seconds >= limit_s) == (expected == wire.UNANSWERED)


def test_an_early_answer_is_seen_while_there_is_more_to_send() -> None:
    """The status counts where the server then closes, and not all was sent."""
    with server(refuse) as address:
        reply = wire.exchange(address, (bytes(100_000) for _ in range(1000)), PATIENCE_S)
    assert reply.answer in ("431", wire.CLOSED)  # a reset may throw the answer away
    assert reply.sent < 100_000_000
    assert reply.seconds < PATIENCE_S


def test_nobody_there_is_closed() -> None:
    """A port where nobody listens refuses."""
    with socket.create_server(("127.0.0.1", 0)) as once:
        address = once.getsockname()
    assert wire.exchange(address, [b"a"], 1.0).answer == wire.CLOSED


@pytest.mark.parametrize(("serve", "expected"), [(hang_up, wire.CLOSED), (wait, wire.OPEN), (answer, wire.OPEN)])
def test_slow_clients_hold_on_until_they_are_closed(serve: Serve, expected: str) -> None:
    """Those whose server closes are closed; others are open at the limit."""
    with server(serve) as address:
        replies = wire.drip(address, [(b"GET /", b"a")], 3, 3.0 if expected == wire.OPEN else PATIENCE_S)
    assert replies.answers == Counter({expected: 3})
    assert replies.sent > 0 or expected == wire.CLOSED


@pytest.mark.parametrize(("serve", "expected"), [(answer, "200"), (wait, wire.UNANSWERED), (hang_up, wire.CLOSED)])
def test_a_burst_counts_every_answer(serve: Serve, expected: str) -> None:
    """Every request of a burst has an answer, or none."""
    with server(serve) as address:
        limit_s = 1.0 if expected == wire.UNANSWERED else PATIENCE_S
        assert wire.burst(address, [b"GET / HTTP/1.1\r\n\r\n"] * 20, limit_s).answers == Counter({expected: 20})


def test_clients_that_read_nothing() -> None:
    """They are open where the server reads and holds on, and closed where it resets them."""
    with server(wait) as address:
        assert wire.read_nothing(address, 2, 5, 0.4).answers == Counter({wire.OPEN: 2})
    with server(hang_up) as address:
        assert wire.read_nothing(address, 2, 5, PATIENCE_S).answers == Counter({wire.CLOSED: 2})
