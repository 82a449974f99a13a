import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import httpx2
import pytest

from loadgen.bursts.plan import FIRST
from loadgen.client import ImagesClient, Reply, Sample, drive
from loadgen.traffic import Arrivals, ClosedLoop, ImageRequest, Poisson

REQUESTS = next(FIRST.traffic(0))


class SlowServer:
    """Answers one request at a time, each after a fixed time; remembers how many waited at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._one = asyncio.Lock()
        self._waiting = 0
        self.most_waiting = 0

    async def send(self, request: ImageRequest) -> Reply:
        self._waiting += 1
        self.most_waiting = max(self.most_waiting, self._waiting)
        async with self._one:
            await asyncio.sleep(self._seconds)
        self._waiting -= 1
        return Reply(request.prompt.encode())


def drive_slowly(arrivals: Arrivals, seconds: float) -> tuple[list[Sample], SlowServer]:
    async def go() -> tuple[list[Sample], SlowServer]:
        server = SlowServer(seconds)
        return await drive(server.send, REQUESTS, arrivals, random.Random(0)), server

    return asyncio.run(go())


def test_burst_is_due_at_once() -> None:
    """In a burst every request is due at zero, so its latency includes waiting for its mates."""
    samples, server = drive_slowly(ClosedLoop(requests=8, outstanding=8), 0.02)
    assert server.most_waiting == 8
    assert [s.due_s for s in samples] == [0.0] * 8
    assert max(s.latency_s for s in samples) >= 8 * 0.02


def test_closed_loop_keeps_its_bound() -> None:
    """A closed loop never has more than its number outstanding, and a request is due when a slot frees."""
    samples, server = drive_slowly(ClosedLoop(requests=8, outstanding=2), 0.01)
    assert server.most_waiting == 2
    assert samples[0].due_s == samples[1].due_s == 0.0
    assert all(s.due_s > 0 for s in samples[2:])


def test_open_loop_does_not_wait() -> None:
    """An open loop sends when due, however slow the server, and counts latency from then."""
    arrivals = Poisson(requests=8, rate_rps=1000.0)
    samples, server = drive_slowly(arrivals, 0.02)
    assert server.most_waiting > 4
    assert [s.due_s for s in samples] == arrivals.times_s(random.Random(0))
    assert all(s.sent_s >= s.due_s for s in samples)
    assert all(s.latency_s == s.done_s - s.due_s for s in samples)


def test_samples_keep_their_order() -> None:
    """Samples come in the order of the requests, whoever is answered first."""
    samples, _ = drive_slowly(ClosedLoop(requests=8, outstanding=3), 0.001)
    assert [s.reply.image for s in samples] == [r.prompt.encode() for r in REQUESTS]


def answering(status: int, content: object) -> Callable[..., Awaitable[None]]:
    """An ASGI application that answers everything with one JSON document."""

    async def application(
        scope: MutableMapping[str, Any], receive: Callable[..., Any], send: Callable[..., Awaitable[None]]
    ) -> None:
        assert scope["path"] == "/v1/images/generations"
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
        )
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})

    return application


def ask(application: Callable[..., Awaitable[None]]) -> Reply:
    async def go() -> Reply:
        transport = httpx2.ASGITransport(application)
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as http:
            return await ImagesClient(http, "lego-tiny").send(REQUESTS[0])

    return asyncio.run(go())


def test_image_is_decoded() -> None:
    """The image in an answer comes back as bytes."""
    assert ask(answering(200, {"data": [{"b64_json": base64.b64encode(b"png").decode()}]})) == Reply(b"png")


def test_a_request_with_files_is_a_form() -> None:
    """An edit goes to its own path with its files and its fields as text; an image comes back as ever."""
    from loadgen.edits.request import EditRequest

    posted: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        posted.append(request)
        return httpx2.Response(200, json={"data": [{"b64_json": base64.b64encode(b"png").decode()}]})

    async def go() -> Reply:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer), base_url="http://server") as http:
            request = EditRequest("a red circle", 64, 64, 20, 4.0, 7, template=3, mask=b"the mask")
            return await ImagesClient(http, "lego-tiny", lambda _: 1.5).send(request)

    assert asyncio.run(go()) == Reply(b"png")
    [request] = posted
    assert request.url.path == "/v1/images/edits"
    assert request.headers["content-type"].startswith("multipart/form-data")
    content = request.content
    assert all(each in content for each in (b'name="reuse"\r\n\r\nhigh', b"the mask", b"\r\n\r\n1500"))


def test_deadline_is_told() -> None:
    """With an objective the body says within how many milliseconds; without, the field is absent."""
    bodies: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.content))
        return httpx2.Response(200, json={"data": [{"b64_json": ""}]})

    async def go() -> None:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer), base_url="http://server") as http:
            await ImagesClient(http, "lego-tiny", lambda request: request.steps / 10).send(REQUESTS[0])
            await ImagesClient(http, "lego-tiny").send(REQUESTS[0])

    asyncio.run(go())
    assert bodies[0]["deadline_ms"] == 100 * REQUESTS[0].steps
    assert "deadline_ms" not in bodies[1]


@pytest.mark.parametrize(
    ("status", "content", "says"),
    [
        (429, {"error": {"message": "full"}}, "429"),
        (200, {"data": []}, "no image"),
        (200, {"data": [{"b64_json": "?"}]}, "no image"),
        (200, [], "no image"),
    ],
)
def test_failures_are_replies(status: int, content: object, says: str) -> None:
    """Whatever else a server answers becomes a reply without image that says why."""
    reply = ask(answering(status, content))
    assert reply.image is None
    assert says in (reply.error or "")


def test_no_server() -> None:
    """A refused connection becomes a reply without image."""

    async def go() -> Reply:
        async with httpx2.AsyncClient(base_url="http://127.0.0.1:9") as http:
            return await ImagesClient(http, "lego-tiny").send(REQUESTS[0])

    assert "ConnectError" in (asyncio.run(go()).error or "")
