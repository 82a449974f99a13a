import asyncio
import base64
import random
from collections.abc import Awaitable, Callable

import httpx2
import pytest

from loadgen.mock_server import EXPONENTIAL, MockServer, MockSettings, ServiceTimes
from tests.support.loadgen.virtual_time import run_virtually

BODY: dict[str, object] = {"model": "mock", "prompt": "a", "size": "32x16", "num_inference_steps": 4}


def ask(settings: MockSettings, talk: Callable[[httpx2.AsyncClient], Awaitable[object]]) -> object:
    async def go() -> object:
        transport = httpx2.ASGITransport(MockServer(settings).app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://mock") as http:
            return await talk(http)

    return run_virtually(go())


def test_requests_take_their_known_times_in_turn() -> None:
    """Three requests at once of one worker are answered after one, two and three service times."""

    async def three(http: httpx2.AsyncClient) -> list[float]:
        async def one() -> float:
            await http.post("/v1/images/generations", json=BODY)
            return asyncio.get_running_loop().time()

        return sorted(await asyncio.gather(one(), one(), one()))

    settings = MockSettings(ServiceTimes(1.0, 0.5))
    assert ask(settings, three) == pytest.approx([3.0, 6.0, 9.0])
    assert ask(MockSettings(ServiceTimes(1.0, 0.5), workers=3), three) == pytest.approx([3.0, 3.0, 3.0])


def test_answers_are_images_of_the_size() -> None:
    """A generation and an edit are answered with as many PNG files as asked for."""

    async def both(http: httpx2.AsyncClient) -> list[bytes]:
        made = await http.post("/v1/images/generations", json={**BODY, "n": 2})
        edited = await http.post("/v1/images/edits", data={"prompt": "a", "size": "8x8"}, files={"image": b"png"})
        return [base64.b64decode(each["b64_json"]) for answer in (made, edited) for each in answer.json()["data"]]

    files = ask(MockSettings(ServiceTimes(0.1)), both)
    assert isinstance(files, list)
    assert len(files) == 3
    assert all(file.startswith(b"\x89PNG") for file in files)


def test_refusals_and_failures_are_told() -> None:
    """Beyond its queue the server answers 429 with Retry-After; told to fail it answers 500; nonsense is 400."""

    async def statuses(http: httpx2.AsyncClient) -> list[int]:
        posts = [http.post("/v1/images/generations", json=BODY) for _ in range(4)]
        return sorted(answer.status_code for answer in await asyncio.gather(*posts))

    assert ask(MockSettings(ServiceTimes(1.0), most_waiting=1), statuses) == [200, 200, 429, 429]
    assert ask(MockSettings(ServiceTimes(1.0), failures=1.0), statuses) == [500] * 4

    async def nonsense(http: httpx2.AsyncClient) -> list[int]:
        bodies: list[object] = [[], {"size": "big"}, {"num_inference_steps": "few"}, {"size": "9999x1"}]
        return [(await http.post("/v1/images/generations", json=body)).status_code for body in bodies]

    assert ask(MockSettings(ServiceTimes(1.0)), nonsense) == [400] * 4


def test_readiness_and_models() -> None:
    """The server is ready at once and lists its models."""

    async def look(http: httpx2.AsyncClient) -> list[str]:
        assert (await http.get("/health/ready")).status_code == 200
        return [model["id"] for model in (await http.get("/v1/models")).json()["data"]]

    assert ask(MockSettings(ServiceTimes(1.0), models=("a", "b")), look) == ["a", "b"]


def test_exponential_times_have_their_mean() -> None:
    """Exponential service times have the mean they are told."""
    times, rng = ServiceTimes(0.2, 0.05, EXPONENTIAL), random.Random(0)
    drawn = [times.seconds({"num_inference_steps": 4}, rng) for _ in range(4000)]
    assert sum(drawn) / len(drawn) == pytest.approx(0.4, rel=0.05)
