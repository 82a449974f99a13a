"""Sends requests when they are due and times the answers.

Latency counts from the moment a request was *due*, not from when it left: a client that falls behind
must not make the server look fast.
"""

import asyncio
import base64
import binascii
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import httpx2

from loadgen.traffic import Arrivals, ClosedLoop, ImageRequest

TIMEOUT_S = 300.0
NO_ANSWER = 0  # the status of a request whose connection failed

Request = TypeVar("Request")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: the image as a file's bytes, or a line on why there is none; and the HTTP status."""

    image: bytes | None
    error: str | None = None
    status: int = 200


@dataclass(frozen=True, slots=True)
class Sample:
    """The timing and the reply of one request; times are seconds from the start of the run."""

    due_s: float
    sent_s: float
    done_s: float
    reply: Reply

    @property
    def latency_s(self) -> float:
        """Seconds from when the request was due to the last byte of its reply."""
        return self.done_s - self.due_s

    @property
    def service_s(self) -> float:
        """Seconds from when the request was sent to the last byte of its reply."""
        return self.done_s - self.sent_s

    @property
    def is_ok(self) -> bool:
        """Whether an image came back."""
        return self.reply.image is not None


Deadline = Callable[[ImageRequest], float]  # seconds a request may take


class ImagesClient:
    """A client of the OpenAI Images API; its ``send`` never raises for what a server does.

    ``deadline_s``, where given, is sent to the server as ``deadline_ms``.
    """

    def __init__(self, http: httpx2.AsyncClient, model: str, deadline_s: Deadline | None = None) -> None:
        self._http = http
        self._model = model
        self._deadline_s = deadline_s

    async def send(self, request: ImageRequest) -> Reply:
        """Send one request and read the whole answer."""
        body = request.body(self._model)
        if self._deadline_s is not None:
            body["deadline_ms"] = max(1, round(1000 * self._deadline_s(request)))
        return await post(self._http, request.path, body, request.files)


async def post(
    http: httpx2.AsyncClient, path: str, body: Mapping[str, object], files: Mapping[str, tuple[str, bytes, str]]
) -> Reply:
    """Post a body, as a form where there are files, and read the whole answer.  Never raises for what a server does."""
    try:
        if files:
            response = await http.post(path, data=body, files=files)
        else:
            response = await http.post(path, json=body)
    except httpx2.HTTPError as error:
        return Reply(None, f"{type(error).__name__}: {error}", NO_ANSWER)
    status = response.status_code
    if status != httpx2.codes.OK:
        return Reply(None, f"{status}: {response.text[:300]}", status)
    try:
        return Reply(base64.b64decode(response.json()["data"][0]["b64_json"], validate=True))
    except (ValueError, KeyError, IndexError, TypeError, binascii.Error):
        return Reply(None, f"the answer holds no image: {response.text[:300]}", status)


def open_http(url: str, timeout_s: float = TIMEOUT_S, headers: Mapping[str, str] | None = None) -> httpx2.AsyncClient:
    """Return an HTTP client that queues nothing on this side."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(base_url=url, timeout=timeout_s, limits=limits, headers=headers)


async def drive(
    send: Callable[[Request], Awaitable[Reply]], requests: Sequence[Request], arrivals: Arrivals, rng: random.Random
) -> list[Sample]:
    """Send the requests as the arrivals say and return their samples, in the order of the requests.

    The event loop's clock times everything, so that a loop with a clock of its own needs no real time.
    """
    if isinstance(arrivals, ClosedLoop):
        return await _run_closed(send, requests, arrivals.outstanding)
    return await _run_open(send, requests, arrivals.times_s(rng))


async def _run_closed(
    send: Callable[[Request], Awaitable[Reply]], requests: Sequence[Request], outstanding: int
) -> list[Sample]:
    now = asyncio.get_running_loop().time
    start = now()
    slots = asyncio.Semaphore(outstanding)

    async def send_in_slot(request: Request) -> Sample:
        async with slots:
            due = now() - start
            return await _send_timed(send, request, start, due)

    samples = await asyncio.gather(*(send_in_slot(request) for request in requests))
    # The first slots were free from the start: a burst is due at zero, however late its last request left.
    return [Sample(0.0, s.sent_s, s.done_s, s.reply) if i < outstanding else s for i, s in enumerate(samples)]


async def _run_open(
    send: Callable[[Request], Awaitable[Reply]], requests: Sequence[Request], times_s: Sequence[float]
) -> list[Sample]:
    now = asyncio.get_running_loop().time
    start = now()

    async def send_when_due(request: Request, due: float) -> Sample:
        await asyncio.sleep(start + due - now())
        return await _send_timed(send, request, start, due)

    return await asyncio.gather(*(send_when_due(r, due) for r, due in zip(requests, times_s, strict=True)))


async def _send_timed(
    send: Callable[[Request], Awaitable[Reply]], request: Request, start: float, due: float
) -> Sample:
    now = asyncio.get_running_loop().time
    sent = now() - start
    reply = await send(request)
    return Sample(due, sent, now() - start, reply)
