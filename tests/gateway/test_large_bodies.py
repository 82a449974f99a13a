"""Bodies that cost much: what others wait meanwhile, and what one gateway holds at once."""

import asyncio
import threading
import time
from collections.abc import Callable

import httpx2
import pytest

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import Apart, error_of

URL = "/v1/images/generations"
JSON = {"content-type": "application/json"}
ESCAPES = b"\\u0041" * 6_600_000
FORM = {"content-type": "multipart/form-data; boundary=b"}


def form_of(name: str, value: bytes) -> bytes:
    """An edit with 62 fields of one name."""
    field = b'--b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)
    return field * 62 + b"--b--\r\n"


HOSTILE: dict[str, Callable[[], bytes]] = {
    "distinct names and one twice": lambda: (
        b'{"prompt":"a","style":{' + b"".join(b'"k%d":1,' % i for i in range(40_000)) + b'"k39999":1}}'
    ),
    "empty lists": lambda: b'{"prompt":"a","style":[' + b"[]," * 15_000_000 + b"[]]}",
    "adapters": lambda: b'{"prompt":"a","lora":[' + b'{"name":"a"},' * 3_000_000 + b'{"name":"a"}]}',
    "one string": lambda: b'{"prompt":"a","style":"' + b"x" * 45_000_000 + b'"}',
    "an escaped image": lambda: b'{"prompt":"a","controlnet":[{"name":"a","image":"' + ESCAPES + b'"}]}',
    "an escaped field": lambda: b'{"prompt":"a","user":"' + ESCAPES + b'"}',
    "an escaped name": lambda: b'{"prompt":"a","style":{"' + ESCAPES + b'":1}}',
    "a long name": lambda: b'{"prompt":"a","style":{"' + b"n" * 45_000_000 + b'":1}}',
    "a form's adapters": lambda: form_of("lora[]", b"[" + b"[]," * 21_000 + b"[]]"),
    "a form's names": lambda: form_of("lora[][name]", b"\0" * 64_000),
}


@pytest.fixture
def large_settings() -> GatewaySettings:
    """Bodies as large as they may be by default."""
    return GatewaySettings("lego-tiny")


def waits(url: str, during: Callable[[], None]) -> list[float]:
    """The seconds that others wait for an answer while something is done."""
    ended = threading.Event()

    def do() -> None:
        try:
            during()
        finally:
            ended.set()

    seconds = []
    with httpx2.Client() as client:
        client.get(f"{url}/health/live")
        worker = threading.Thread(target=do)
        worker.start()
        while not ended.is_set():
            started = time.monotonic()
            assert client.get(f"{url}/health/live").status_code == 200
            seconds.append(time.monotonic() - started)
        worker.join()
    return seconds


def target_of(body: bytes) -> tuple[str, dict[str, str]]:
    """The route and the type of a body."""
    return ("/v1/images/edits", FORM) if body.startswith(b"--b") else (URL, JSON)


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_body_of_any_kind_is_refused_in_little_time_of_the_processor(runner, large_settings, kind) -> None:
    """At most 20 ms of this process a megabyte, and 100 ms whatever its size."""
    body = HOSTILE[kind]()
    transport = httpx2.ASGITransport(create_app(runner, runner, large_settings, Metrics()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        path, headers = target_of(body)
        started = time.process_time()
        answer = await client.post(path, content=body, headers=headers)
        assert time.process_time() - started < 0.1 + 0.02 * len(body) / 1e6
    assert answer.status_code in (400, 413)
    assert runner.jobs == []


@pytest.mark.alone
def test_others_hardly_wait_while_large_bodies_are_read() -> None:
    """Beside two bodies of each kind, most of 45 MB, 99 of 100 requests wait at most 50 ms longer than beside small ones."""
    bodies = [make() for make in HOSTILE.values()] * 2
    small = b'{"prompt":""}'

    def send(contents: list[bytes], url: str) -> None:
        with httpx2.Client(timeout=60) as client:
            for content in contents:
                path, headers = target_of(content)
                answer = client.post(f"{url}{path}", content=content, headers=headers)
                assert answer.status_code in (400, 413)

    with Apart() as url:
        usual = waits(url, lambda: send([small] * 300, url))
        meanwhile = waits(url, lambda: send(bodies, url))
    late = sorted(meanwhile)[int(0.99 * len(meanwhile))]
    assert late < sorted(usual)[int(0.99 * len(usual))] + 0.05, (late, max(usual), max(meanwhile), len(meanwhile))


async def test_a_gateway_holds_so_many_bytes_of_bodies_and_no_more(runner) -> None:
    """One body too many is told to come again; once the others have been read there is room."""
    settings = GatewaySettings("lego-tiny", max_body_bytes=1_000_000)
    app = create_app(runner, runner, settings, Metrics())
    gate = asyncio.Event()

    async def slowly():
        yield b'{"prompt":"a","style":"' + b"x" * 900_000
        await gate.wait()
        yield b'"}'

    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        held = [asyncio.ensure_future(client.post(URL, content=slowly(), headers=JSON)) for _ in range(4)]
        while app.state.body_bytes.held < 4 * 900_000:
            await asyncio.sleep(0)
        files = {"image": b"x" * 900_000}
        for answer in (
            await client.post(URL, content=b" " * 900_000, headers=JSON),
            await client.post("/v1/images/edits", files=files, data={"prompt": "a"}),
        ):
            assert error_of(answer) == (429, "bodies_over_capacity", None)
            assert answer.headers["retry-after"] == "1"
        assert (await client.post(URL, json={"prompt": "a"})).status_code == 200
        gate.set()
        assert {error_of(answer) for answer in await asyncio.gather(*held)} == {(400, "unsupported_parameter", "style")}
        assert app.state.body_bytes.held == 0
        assert error_of(await client.post("/v1/images/edits", files=files, data={"prompt": "a"}))[0] == 400
    assert app.state.body_bytes.held == 0


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_body_small_or_large_is_read_alike(client, runner, size) -> None:
    """In place, or in a thread."""
    spaces = b" " * size
    answer = await client.post(URL, content=b'{"prompt":"a",' + spaces + b'"seed":3}', headers=JSON)
    assert answer.status_code == 200
    assert runner.jobs[0].inputs["seed"] == 3
    answer = await client.post(URL, content=b'{"prompt":"a",' + spaces + b'"seed":3,"seed":4}', headers=JSON)
    assert error_of(answer) == (400, "duplicate_field", "seed")


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"[" * 40 + b"]" * 40, 400, "deeper than 32 levels"),
        (b'{"style":[' + b"0," * 5000 + b"0]}", 400, "more than 4096 values"),
        (b'{"style":[' + b'{"a":0},' * 1500 + b"0]}", 400, "more than 1024 fields"),
    ],
)
async def test_a_limit_is_told_with_its_number(client, content, status, words) -> None:
    """On every route that reads JSON."""
    for path in (URL, "/v1/admin/adapters", "/v1/templates/a/warm"):
        answer = await client.post(path, content=content, headers=JSON)
        assert answer.status_code == status
        assert words in answer.json()["error"]["message"]


async def test_bytes_outside_of_strings_are_too_large_before_the_body_is(runner, large_settings) -> None:
    """A megabyte of spaces or digits is 413, megabytes of base64 are not."""
    transport = httpx2.ASGITransport(create_app(runner, runner, large_settings, Metrics()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        spaces = await client.post(URL, content=b'{"prompt":"a"' + b" " * 1_100_000 + b"}", headers=JSON)
        assert error_of(spaces) == (413, "body_too_large", None)
        assert "1048576 bytes outside of strings" in spaces.json()["error"]["message"]
        image = {"name": "edges", "image": "A" * 2_000_000}
        base64 = await client.post(URL, json={"prompt": "a", "controlnet": [image]})
        assert error_of(base64) == (404, "controlnet_not_found", "controlnet[0].name")
