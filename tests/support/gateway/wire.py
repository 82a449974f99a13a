"""Raw sockets to a gateway, and a real one in the test's own process."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.gateway.transport.draining import Draining
from lego_serve.gateway.transport.limits import ConnectionLimits
from lego_serve.metrics import Metrics
from tests.support.gateway.client import Live
from tests.support.gateway.runner import FakeRunner

IMAGE = json.dumps({"prompt": "a"}).encode()
TIMEOUT_S = 25.0  # less than any of the product's own that would end a connection


@dataclass
class Gateway:
    """A gateway that listens, and the runner behind it."""

    runner: FakeRunner
    url: str
    live: Live
    draining: Draining = field(default_factory=Draining)

    def asked(self, request: bytes) -> socket.socket:
        """A connection on which a request has come whole before the server looks at it."""
        with self.live.held():
            connection = self.connect()
            connection.sendall(request)
            return connection

    def connect(self) -> socket.socket:
        """A connection to it."""
        parts = urlsplit(self.url)
        return socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S)


@contextmanager
def gateway(
    settings: GatewaySettings | None = None, *, drain_timeout_s: float = 0.0, **limits: float
) -> Iterator[Gateway]:
    """A gateway within limits."""
    runner, draining = FakeRunner(), Draining()
    settings = settings or GatewaySettings("lego-tiny", max_body_bytes=200_000)
    app = create_app(runner, runner, settings, Metrics(), draining=draining)
    live = Live(app, ConnectionLimits(**limits), draining, drain_timeout_s)  # type: ignore[arg-type]
    with live as url:
        yield Gateway(runner, url, live, draining)


def head(method: str, path: str, *lines: str, version: str = "1.1") -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: localhost", *lines, "", ""]).encode()


def generation(*lines: str, body: bytes = IMAGE, version: str = "1.1") -> bytes:
    """A request for an image."""
    sizes = () if any(line.startswith("Transfer-Encoding") for line in lines) else (f"Content-Length: {len(body)}",)
    start = head("POST", "/v1/images/generations", "Content-Type: application/json", *sizes, *lines, version=version)
    return start + (body if sizes else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))


@dataclass(frozen=True)
class Answer:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of its error."""
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert self.headers["x-request-id"]
        return str(error["code"])


class Reader:
    """Reads answers off a connection, one after another."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._kept = connection, b""

    def answer(self) -> Answer:
        """The next answer."""
        while b"\r\n\r\n" not in self._kept:
            self._more()
        start, _, self._kept = self._kept.partition(b"\r\n\r\n")
        lines = start.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        status = int(lines[0].split()[1])
        length = int(headers.get("content-length", 0))
        while len(self._kept) < length:
            self._more()
        body, self._kept = self._kept[:length], self._kept[length:]
        return Answer(status, headers, body)

    def rest(self) -> bytes:
        """Everything until the server closes."""
        while received := self._connection.recv(65536):
            self._kept += received
        return self._kept

    def _more(self) -> None:
        received = self._connection.recv(65536)
        if not received:
            raise EOFError(f"closed after {self._kept!r}")
        self._kept += received


def ask(server: Gateway, request: bytes) -> Answer:
    """The answer to a request on a connection of its own."""
    with server.asked(request) as connection:
        return Reader(connection).answer()


@contextmanager
def leaving(url: str, path: str, body: dict[str, object]) -> Iterator[None]:
    """A client that has asked for something, and leaves without its answer at the end."""
    parts, content = urlsplit(url), json.dumps(body).encode()
    lines = ("Content-Type: application/json", f"Content-Length: {len(content)}")
    with socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(head("POST", path, *lines) + content)
        yield


def is_closed(connection: socket.socket) -> bool:
    """Whether the server closes the connection within the test's patience."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def wait_for(condition, within_s: float = TIMEOUT_S) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + within_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())
