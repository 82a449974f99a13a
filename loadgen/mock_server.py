"""A server of the Images API with known service times, so that the load generator can be tested against theory.

It computes nothing: a request waits for one of the workers, first come, first served, then sleeps.  All waiting goes
through the event loop, so that a loop with a clock of its own runs hours in a second.
"""

import asyncio
import base64
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loadgen.images import png_bytes

FIXED, EXPONENTIAL = "fixed", "exponential"
SPREADS = (FIXED, EXPONENTIAL)
LARGEST = 2048  # pixels of a side
RETRY_S = 1


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """Seconds of a request alone: a constant and a time for each step, for each of its images, as drawn."""

    constant_s: float
    step_s: float = 0.0
    spread: str = FIXED

    def seconds(self, fields: Mapping[str, object], rng: random.Random) -> float:
        """Return the seconds that a request takes.  Raises ValueError for fields that are no numbers."""
        steps, images = _whole(fields, "num_inference_steps", 0), _whole(fields, "n", 1)
        mean_s = (self.constant_s + self.step_s * steps) * images
        return rng.expovariate(1 / mean_s) if self.spread == EXPONENTIAL and mean_s > 0 else mean_s


@dataclass(frozen=True, slots=True)
class MockSettings:
    """The server: its service times, its workers, how many may wait before it refuses, and how often it fails."""

    times: ServiceTimes
    workers: int = 1
    most_waiting: int | None = None
    failures: float = 0.0  # share of the requests that end in 500 after their service
    models: tuple[str, ...] = ("mock",)
    seed: int = 0


class MockServer:
    """An ASGI application; ``served`` counts the answers by status."""

    def __init__(self, settings: MockSettings) -> None:
        self._settings = settings
        self._workers = asyncio.Semaphore(settings.workers)
        self._waiting = 0
        self._rng = random.Random(settings.seed)
        self.served: dict[int, int] = {}
        routes = [
            Route("/v1/images/generations", self._image, methods=["POST"]),
            Route("/v1/images/edits", self._image, methods=["POST"]),
            Route("/v1/models", self._models),
            *(Route(path, self._ready) for path in ("/health", "/health/ready")),
        ]
        self.app = Starlette(routes=routes)

    async def _image(self, request: Request) -> Response:
        """Wait for a worker, take the service time, and answer."""
        try:
            fields = await _fields(request)
            size = _size(str(fields.get("size", "1024x1024")))
            images = _whole(fields, "n", 1)
            seconds = self._settings.times.seconds(fields, self._rng)
        except ValueError as error:
            return self._answer(400, _error(str(error), "invalid_request_error"))
        most = self._settings.most_waiting
        if most is not None and self._workers.locked() and self._waiting >= most:
            return self._answer(429, _error(f"{most} requests wait already", "capacity"), {"Retry-After": str(RETRY_S)})
        self._waiting += 1
        async with self._workers:
            self._waiting -= 1
            await asyncio.sleep(seconds)
        if self._rng.random() < self._settings.failures:
            return self._answer(500, _error("failed, as told to", "server_error"))
        return self._answer(200, {"created": 0, "data": [{"b64_json": _picture(*size)}] * images})

    def _answer(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> Response:
        self.served[status] = self.served.get(status, 0) + 1
        return JSONResponse(content, status, headers=headers)

    async def _models(self, request: Request) -> Response:
        models = [{"id": name, "object": "model", "owned_by": "mock"} for name in self._settings.models]
        return JSONResponse({"object": "list", "data": models})

    async def _ready(self, request: Request) -> Response:
        return JSONResponse({"status": "ready"})


async def _fields(request: Request) -> Mapping[str, object]:
    """Return the fields of a JSON body or a form.  Raises ValueError."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form() as form:
            return {name: value for name, value in form.items() if isinstance(value, str)}
    body = await request.json()
    if not isinstance(body, dict):
        raise ValueError("the body is no JSON object")
    return body


def _whole(fields: Mapping[str, object], name: str, default: int) -> int:
    try:
        return int(str(fields.get(name, default)))
    except ValueError:
        raise ValueError(f"`{name}` is no whole number: {fields[name]!r}") from None


def _size(text: str) -> tuple[int, int]:
    """Return width and height.  Raises ValueError."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and 0 < int(width) <= LARGEST and 0 < int(height) <= LARGEST):
        raise ValueError(f"`size` is no size such as 1024x1024, at most {LARGEST}: {text!r}")
    return int(width), int(height)


@lru_cache(maxsize=64)
def _picture(width: int, height: int) -> str:
    return base64.b64encode(png_bytes(Image.new("RGB", (width, height), "grey"))).decode()


def _error(message: str, kind: str) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
