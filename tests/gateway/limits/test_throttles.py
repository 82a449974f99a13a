"""The counts of tenants' quotas: in memory, in Redis for several gateways, and while Redis is away."""

import asyncio
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lego_serve.core.rate_limits import Quota
from lego_serve.gateway.limits.throttles import Throttles
from tests.support.jobstore.redis_server import RedisServer

WORK = Quota("work", 200_000_000, "pixel-steps")
REQUESTS = Quota("requests", 3)
PATIENCE_S = 60.0  # with a Redis that is there: this machine may be busy


def now() -> float:
    """Seconds in which this process was let run."""
    return asyncio.get_running_loop().time()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A server of this file's own; the path of a unix socket must be short."""
    with tempfile.TemporaryDirectory(prefix="lego-limits-") as folder:
        server = RedisServer(Path(folder))
        yield server
        server.stop()


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where counts are kept; the server is started for those that need it alone."""
    return None if request.param == "memory" else str(request.getfixturevalue("redis").url)


async def test_a_quota_is_used_up_and_comes_back_evenly(url) -> None:
    """What is left and when all is back are told at once; looking uses nothing."""
    throttles, began = Throttles(url, PATIENCE_S), time.monotonic()
    [whole] = await throttles.peek("a", [WORK])
    assert (whole.remaining, whole.reset_s) == (WORK.limit, 0.0)
    [half] = await throttles.take("a", {WORK: WORK.limit // 2})
    assert half.remaining == pytest.approx(WORK.limit // 2, rel=0.01)
    assert half.reset_s == pytest.approx(30, abs=0.5)
    [seen] = await throttles.peek("a", [WORK])
    assert half.remaining <= seen.remaining <= half.remaining + WORK.limit / 60 * (time.monotonic() - began) + 1


async def test_more_than_is_left_takes_nothing(url) -> None:
    """Each quota by itself, and each tenant."""
    throttles = Throttles(url, PATIENCE_S)
    costs = {REQUESTS: 2, WORK: 5}
    assert [each.remaining for each in await throttles.take("b", costs)] == [1, WORK.limit - 5]
    requests, work = await throttles.take("b", costs)
    assert requests.remaining == 1
    assert work.remaining >= WORK.limit - 10
    assert (await throttles.peek("c", [REQUESTS]))[0].remaining == 3


async def test_gateways_count_together_where_there_is_redis(redis) -> None:
    """In memory each counts for itself."""
    for url, left in ((redis.url, 0), (None, 2)):
        gateways = [Throttles(url, PATIENCE_S) for _ in range(3)]
        standings = [await gateway.take("together", {REQUESTS: 1}) for gateway in gateways]
        assert standings[-1][0].remaining == left


async def test_a_redis_that_is_away_is_not_waited_for(redis, caplog) -> None:
    """This process counts instead, told in the log; a little later Redis is tried again."""
    throttles = Throttles(redis.url, PATIENCE_S)  # which is not needed where nobody listens
    assert (await throttles.take("away", {REQUESTS: 1}))[0].remaining == 2
    redis.stop()
    began = now()
    with caplog.at_level(logging.WARNING):
        left = [(await throttles.take("away", {REQUESTS: 1}))[0].remaining for _ in range(6)]
    assert now() - began < 2.0
    assert left[:3] == [2, 1, 0]
    assert "in this gateway alone" in caplog.text
    redis.start()
    await asyncio.sleep(1.1)  # until the next probe
    assert (await throttles.peek("away", [REQUESTS]))[0].remaining == 2


async def test_a_redis_that_hangs_costs_a_moment() -> None:
    """It accepts connections and answers nothing."""
    with tempfile.TemporaryDirectory(prefix="lego-silent-") as folder:
        path = f"{folder}/redis.sock"
        silent = await asyncio.start_unix_server(lambda _reader, _writer: asyncio.sleep(5), path)
        throttles = Throttles(f"unix://{path}")
        began = now()
        for _ in range(20):
            await throttles.take("a", {REQUESTS: 1})
        assert now() - began < 3.0
        silent.close()
