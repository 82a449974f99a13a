"""How tests talk to a gateway, and what they send it."""

import asyncio
import contextlib
import io
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.gateway.transport.draining import Draining
from lego_serve.gateway.transport.limits import ConnectionLimits
from lego_serve.gateway.transport.server import create_server
from lego_serve.metrics import Metrics
from tests.support.clocks import SteadyLoop
from tests.support.gateway.runner import FakeRunner

START_S = 60.0


def listening_place(port: int = 0) -> socket.socket:
    """A socket that has a port on loopback, which nobody else can take meanwhile; a free one unless it is named."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # for whoever is to have the same port afterwards
    bound.bind(("127.0.0.1", port))
    return bound


class Live:
    """The application on a real socket, in a thread, by a clock that stands still while the process is held up.

    ``port`` is that of another one that ends before this one begins.
    """

    def __init__(self, app, limits=None, draining=None, drain_timeout_s: float = 0.0, port: int = 0) -> None:
        self._bound = listening_place(port)
        self.port = self._bound.getsockname()[1]
        limits = limits or ConnectionLimits()
        draining = draining or Draining()
        self.server = create_server(app, limits, draining, drain_timeout_s, log_level="error", loop="asyncio")
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self._loop = SteadyLoop()

    def __enter__(self) -> str:
        self.thread.start()
        limit = time.monotonic() + START_S
        while not self.server.started:
            assert self.thread.is_alive(), "the gateway ended as it began"
            assert time.monotonic() < limit, f"the gateway does not listen after {START_S:.0f} s"
            time.sleep(0.001)
        return f"http://127.0.0.1:{self.port}"

    def __exit__(self, *error: object) -> None:
        self.server.should_exit = True
        self.thread.join()

    @contextlib.contextmanager
    def held(self):
        """Keep the server from doing anything: what is sent meanwhile it finds all at once, as soon as it looks."""
        goes_on, stands = threading.Event(), threading.Event()

        def stand_still() -> None:
            stands.set()
            goes_on.wait()

        self._loop.call_soon_threadsafe(stand_still)
        stands.wait()
        try:
            yield
        finally:
            goes_on.set()

    def now(self) -> float:
        """Seconds by the server's own clock."""
        return self._loop.time()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self.server.serve([self._bound]))


class Apart:
    """The application on the product's server in a process of its own, so that clients take none of its time."""

    CODE = (
        "import socket, sys; from lego_serve.gateway.app import create_app;"
        "from lego_serve.gateway.settings import GatewaySettings; from lego_serve.metrics import Metrics;"
        "from lego_serve.gateway.transport.draining import Draining;"
        "from lego_serve.gateway.transport.limits import ConnectionLimits;"
        "from lego_serve.gateway.transport.server import create_server;"
        "from tests.support.gateway.runner import FakeRunner; r = FakeRunner();"
        "app = create_app(r, r, GatewaySettings('lego-tiny'), Metrics());"
        "place = socket.socket(fileno=int(sys.argv[1]));"
        "create_server(app, ConnectionLimits(), Draining(), 0.0, log_level='error').run([place])"
    )

    def __enter__(self) -> str:
        with listening_place() as bound:
            url = f"http://127.0.0.1:{bound.getsockname()[1]}"
            place, root = bound.fileno(), Path(__file__).parents[3]
            self._process = subprocess.Popen([sys.executable, "-c", self.CODE, str(place)], cwd=root, pass_fds=[place])
        for _ in range(600):
            with contextlib.suppress(httpx2.TransportError):
                httpx2.get(f"{url}/health/live")
                return url
            time.sleep(0.1)
        raise TimeoutError("the gateway does not answer")

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()


def file_of(shade: int = 0, size: tuple[int, int] = (128, 96), form: str = "PNG", mode: str = "RGB") -> bytes:
    """An image, told from others by its shade."""
    out = io.BytesIO()
    Image.new(mode, size, shade).save(out, form)
    return out.getvalue()


def mask_of(size: tuple[int, int] = (128, 96)) -> bytes:
    """A mask that is transparent in its upper left."""
    alpha = np.full((size[1], size[0]), 255, np.uint8)
    alpha[:32, :32] = 0
    out = io.BytesIO()
    Image.fromarray(np.dstack([np.zeros((*alpha.shape, 3), np.uint8), alpha])).save(out, "PNG")
    return out.getvalue()


async def registered(client: httpx2.AsyncClient, shade: int = 0, **fields: str) -> dict[str, Any]:
    """The card of an image that is registered now."""
    answer = await client.post("/v1/templates", files={"image": file_of(shade)}, data=fields)
    assert answer.status_code == 201, answer.text
    card: dict[str, Any] = answer.json()
    return card


def error_of(answer: httpx2.Response) -> tuple[int, str, str | None]:
    """Status, code and field of a refusal."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def files_in(settings: GatewaySettings) -> list[str]:
    """The names of all files of templates."""
    assert settings.templates is not None
    return sorted(path.name for path in settings.templates.folder.glob("*/*") if path.name != "lock")


async def refused(client: httpx2.AsyncClient, body: object, status: int, code: str, param: str | None) -> None:
    """Post a body and compare the error."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await client.post("/v1/images/generations", content=content, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert answer.headers["x-request-id"]
    assert set(error) == {"message", "type", "param", "code"}


def another(runner: FakeRunner, settings: GatewaySettings, token: str = "") -> httpx2.AsyncClient:
    """A client of a gateway of its own."""
    transport = httpx2.ASGITransport(create_app(runner, runner, settings, Metrics()), raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx2.AsyncClient(transport=transport, base_url="http://gateway", headers=headers)
