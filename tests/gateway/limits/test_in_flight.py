"""Requests in flight, counted over gateways: each says what it has, and the dead count no more."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from lego_serve.gateway.limits.in_flight import InFlight
from lego_serve.jobstore.redis_client import connect
from lego_serve.jobstore.redis_store import RedisJobStore
from tests.support.jobstore.redis_server import RedisServer, running_redis

Open = Callable[[str], InFlight]
PATIENCE_S = 60.0  # the test's own, on a busy machine
LEASE_S = 60.0


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A server of this file's own."""
    with running_redis() as server:
        yield server


@pytest.fixture
async def store(redis: RedisServer) -> AsyncIterator[RedisJobStore]:
    """Where gateways keep their leases."""
    redis.flush()
    made = RedisJobStore(connect(redis.url, PATIENCE_S), LEASE_S)
    yield made
    await made.close()


@pytest.fixture
async def gateway(redis: RedisServer) -> AsyncIterator[Open]:
    """Counts of a gateway of that name."""
    made: list[InFlight] = []

    def open_counts(owner: str) -> InFlight:
        made.append(InFlight(redis.url, owner, PATIENCE_S))
        return made[-1]

    yield open_counts
    for each in made:
        await each.close()


async def test_gateways_count_together(store: RedisJobStore, gateway: Open) -> None:
    """One that leaves makes room in any of them; other tenants are not held up."""
    a, b = gateway("a"), gateway("b")
    for owner in "ab":
        await store.beat(owner)
    assert [await each.enter("x", 2) for each in (a, b, a, b)] == [True, True, False, False]
    assert await a.enter("y", 2)
    a.leave("x")
    until = time.monotonic() + PATIENCE_S
    while not await b.enter("x", 2):
        assert time.monotonic() < until
    assert not await a.enter("x", 2)


async def test_those_of_a_gateway_that_died_count_no_more(store: RedisJobStore, gateway: Open) -> None:
    """When its lease has ended."""
    a, b = gateway("a"), gateway("b")
    await store.beat("a")
    assert await a.enter("x", 1)
    assert not await b.enter("x", 1)
    await RedisJobStore(store._scripts.client, 0.0).beat("a")  # a lease that ends as it begins
    assert await b.enter("x", 1)


async def test_a_burst_gets_as_many_as_there_is_room_for(redis: RedisServer, gateway: Open) -> None:
    """No more, and no fewer."""
    redis.flush()
    counts = [gateway(owner) for owner in "abc"]

    long = RedisJobStore(connect(redis.url, PATIENCE_S), 60.0)
    for owner in "abc":
        await long.beat(owner)
    await long.close()
    entered = await asyncio.gather(*(each.enter("x", 7) for each in counts for _ in range(8)))
    assert sum(entered) == 7


async def test_while_redis_is_away_each_counts_for_itself(tmp_path: Path) -> None:
    """And tells nobody."""
    alone = InFlight(f"unix://{tmp_path}/none.sock", "a")
    assert [await alone.enter("x", 2) for _ in range(3)] == [True, True, False]
    alone.leave("x")
    assert await alone.enter("x", 2)
    await alone.close()


async def test_without_redis_a_gateway_counts_its_own() -> None:
    """Nothing is open to be closed."""
    alone = InFlight()
    assert [await alone.enter("x", 1), await alone.enter("x", 1)] == [True, False]
    alone.leave("x")
    assert await alone.enter("x", 1)
    await alone.close()
