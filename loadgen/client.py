"""Sends requests when they are due and times the answers.

Latency counts from the moment a request was *due*, not from when it left: a client that falls behind
must not make the server look fast.
"""

import asyncio
import base64
import binascii
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import httpx2

from loadgen.traffic import Arrivals, ClosedLoop, ImageRequest, Poisson

TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: the image as a file's bytes, or a line on why there is none."""

    image: bytes | None
    error: str | None = None


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


Send = Callable[[ImageRequest], Awaitable[Reply]]
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
        try:
            if request.files:
                response = await self._http.post(request.path, data=body, files=request.files)
            else:
                response = await self._http.post(request.path, json=body)
        except httpx2.HTTPError as error:
            return Reply(None, f"{type(error).__name__}: {error}")
        if response.status_code != httpx2.codes.OK:
            return Reply(None, f"{response.status_code}: {response.text[:300]}")
        try:
            return Reply(base64.b64decode(response.json()["data"][0]["b64_json"], validate=True))
        except (ValueError, KeyError, IndexError, TypeError, binascii.Error):
            return Reply(None, f"the answer holds no image: {response.text[:300]}")


def open_http(url: str) -> httpx2.AsyncClient:
    """Return an HTTP client that queues nothing on this side."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits)


async def drive(send: Send, requests: Sequence[ImageRequest], arrivals: Arrivals, rng: random.Random) -> list[Sample]:
    """Send the requests as the arrivals say and return their samples, in the order of the requests."""
    match arrivals:
        case ClosedLoop():
            return await _run_closed(send, requests, arrivals.outstanding)
        case Poisson():
            return await _run_open(send, requests, arrivals.times_s(rng))


async def _run_closed(send: Send, requests: Sequence[ImageRequest], outstanding: int) -> list[Sample]:
    start = perf_counter()
    slots = asyncio.Semaphore(outstanding)

    async def send_in_slot(request: ImageRequest) -> Sample:
        async with slots:
            due = perf_counter() - start
            return await _send_timed(send, request, start, due)

    samples = await asyncio.gather(*(send_in_slot(request) for request in requests))
    # The first slots were free from the start: a burst is due at zero, however late its last request left.
    return [Sample(0.0, s.sent_s, s.done_s, s.reply) if i < outstanding else s for i, s in enumerate(samples)]


async def _run_open(send: Send, requests: Sequence[ImageRequest], times_s: Sequence[float]) -> list[Sample]:
    start = perf_counter()

    async def send_when_due(request: ImageRequest, due: float) -> Sample:
        await asyncio.sleep(start + due - perf_counter())
        return await _send_timed(send, request, start, due)

    return await asyncio.gather(*(send_when_due(r, due) for r, due in zip(requests, times_s, strict=True)))


async def _send_timed(send: Send, request: ImageRequest, start: float, due: float) -> Sample:
    sent = perf_counter() - start
    reply = await send(request)
    return Sample(due, sent, perf_counter() - start, reply)
