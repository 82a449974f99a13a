"""Sends raw bytes to a server and sees what becomes of them.

Attacks come from an address of their own, as a bound on connections is by address and others are to be served.
"""

import select
import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks.hostile.payloads import head

ATTACKER = "127.0.0.2"
CLOSED, OPEN, UNANSWERED = "closed", "still open", "no answer"
BLOCK = 1 << 18
DRIP_S = 0.25
Address = tuple[str, int]


@dataclass(slots=True)
class Reply:
    """What one connection has come to: how it was answered, when, and how many bytes it was rid of."""

    answer: str = UNANSWERED
    seconds: float = 0.0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class Replies:
    """How the connections of an attack were answered, the seconds until the last was, and the bytes sent."""

    answers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    sent: int = 0


def status_of(received: bytes) -> str | None:
    """Return the status of an answer of which so much has come; None where that is too little."""
    words = received.split(b"\r\n", 1)[0].split(b" ")
    return words[1].decode(errors="replace") if len(words) > 2 and words[0].startswith(b"HTTP/") else None


def sum_up(replies: Iterable[Reply]) -> Replies:
    """Count the answers of several connections."""
    replies = list(replies)
    seconds = max((reply.seconds for reply in replies), default=0.0)
    return Replies(Counter(reply.answer for reply in replies), seconds, sum(reply.sent for reply in replies))


def dial(address: Address, source: str = ATTACKER) -> socket.socket:
    """Open a connection.  Raises OSError."""
    return socket.create_connection(address, timeout=5, source_address=(source, 0))


def exchange(address: Address, pieces: Iterable[bytes], limit_s: float) -> Reply:
    """Send pieces on a connection until all are sent and answered, the server closes it, or the time is over.

    Sending goes on after an early answer, as a hostile client's would.
    """
    started = time.monotonic()
    reply, received, rest, waiting = Reply(), b"", iter(pieces), memoryview(b"")
    try:
        with dial(address) as connection:
            connection.setblocking(False)
            is_sending = True
            while (left_s := limit_s - (time.monotonic() - started)) > 0 and (
                is_sending or status_of(received) is None
            ):
                readable, writable, _ = select.select([connection], [connection] if is_sending else [], [], left_s)
                if readable:
                    data = connection.recv(BLOCK)
                    received = received or data
                    if status_of(received) is not None and not reply.seconds:
                        reply.seconds = time.monotonic() - started
                    if not data:
                        break
                elif writable:
                    waiting = waiting or memoryview(next(rest, b""))
                    is_sending = bool(waiting)
                    count = connection.send(waiting) if is_sending else 0
                    reply.sent, waiting = reply.sent + count, waiting[count:]
            else:
                reply.answer = status_of(received) or UNANSWERED
                reply.seconds = reply.seconds or time.monotonic() - started
                return reply
    except OSError:
        pass
    reply.answer = status_of(received) or CLOSED
    reply.seconds = reply.seconds or time.monotonic() - started
    return reply


def exchange_all(address: Address, requests: Iterable[bytes], limit_s: float) -> Replies:
    """Send each request on a connection of its own, all at once."""
    requests = list(requests)
    with ThreadPoolExecutor(len(requests)) as pool:
        return sum_up(pool.map(lambda request: exchange(address, [request], limit_s), requests))


def drip(address: Address, kinds: Iterable[tuple[bytes, bytes]], each: int, limit_s: float) -> Replies:
    """Hold connections of each kind, and send a piece on each now and then, until the server has closed them all."""
    started = time.monotonic()
    held: list[tuple[socket.socket, bytes, Reply]] = []
    replies = []
    for begin, piece in (kind for kind in kinds for _ in range(each)):
        replies.append(Reply(CLOSED))
        try:
            connection = dial(address)
            held.append((connection, piece, replies[-1]))
            connection.sendall(begin)
        except OSError:
            replies[-1].seconds = time.monotonic() - started
    while held and time.monotonic() - started < limit_s:
        time.sleep(DRIP_S)
        readable = select.select([connection for connection, _, _ in held], [], [], 0)[0]
        ended = [each for each in held if not _goes_on(*each, is_readable=each[0] in readable)]
        held = [each for each in held if each not in ended]
        for connection, _, reply in ended:
            reply.seconds = time.monotonic() - started
            connection.close()
    for connection, _, reply in held:
        reply.answer, reply.seconds = OPEN, limit_s
        connection.close()
    return sum_up(replies)


def _goes_on(connection: socket.socket, piece: bytes, reply: Reply, *, is_readable: bool) -> bool:
    """Drip once; False once the server has closed the connection."""
    try:
        if is_readable:
            data = connection.recv(BLOCK)
            reply.answer = status_of(data) or reply.answer
            return bool(data)
        reply.sent += connection.send(piece) if piece else 0
    except OSError:
        return False
    return True


def burst(address: Address, requests: Iterable[bytes], limit_s: float) -> Replies:
    """Open a connection for each request, then send all of them, then wait for the answers."""
    started = time.monotonic()
    replies = []
    with selectors.DefaultSelector() as waiting:
        opened = []
        for request in requests:
            replies.append(Reply(CLOSED))
            try:
                opened.append((dial(address), request, replies[-1]))
            except OSError:
                replies[-1].seconds = time.monotonic() - started
        for connection, request, reply in opened:
            reply.answer, reply.seconds = UNANSWERED, limit_s
            waiting.register(connection, selectors.EVENT_READ, reply)
            with suppress(OSError):
                connection.sendall(request)
        sockets = {connection.fileno(): connection for connection, _, _ in opened}
        while waiting.get_map() and (left_s := limit_s - (time.monotonic() - started)) > 0:
            for key, _ in waiting.select(left_s):
                try:
                    answer = status_of(sockets[key.fd].recv(BLOCK))
                except OSError:
                    answer = None
                key.data.answer, key.data.seconds = answer or CLOSED, time.monotonic() - started
                waiting.unregister(key.fileobj)
        for connection, _, _ in opened:
            connection.close()
    return sum_up(replies)


def read_nothing(address: Address, connections: int, gets: int, limit_s: float) -> Replies:
    """Send GETs one behind the other on each connection, read no answer, and wait for the server to close them."""
    started = time.monotonic()
    poll, held = select.poll(), {}
    replies = {}
    for _ in range(connections):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.bind((ATTACKER, 0))
        connection.connect(address)
        connection.setblocking(False)
        poll.register(connection, select.POLLOUT)
        held[connection.fileno()] = (connection, memoryview(head("GET", "/v1/models", {}) * gets))
        replies[connection.fileno()] = Reply(OPEN, limit_s)
    while held and time.monotonic() - started < limit_s:
        for number, events in poll.poll(100):
            connection, rest = held[number]
            try:
                count = connection.send(rest) if rest and not events & (select.POLLERR | select.POLLHUP) else 0
            except OSError:
                events |= select.POLLERR
            else:
                held[number] = connection, rest[count:]
                replies[number].sent += count
            if events & (select.POLLERR | select.POLLHUP):
                replies[number].answer, replies[number].seconds = CLOSED, time.monotonic() - started
                poll.unregister(connection)
                held.pop(number)[0].close()
            elif not held[number][1]:
                poll.modify(connection, 0)
    for connection, _ in held.values():
        connection.close()
    return sum_up(replies.values())
