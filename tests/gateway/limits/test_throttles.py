"""The counts of tenants' quotas: in memory, in Redis for several gateways, and while Redis is away."""

import asyncio
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.rate_limits import Quota
from lego_serve.gateway.limits.throttles import Throttles
from tests.support.jobstore.redis_server import RedisServer

WORK = Quota("work", 200_000_000, "pixel-steps")
REQUESTS = Quota("requests", 3)
ONE, FEW, MORE = Quota("one", 1), Quota("few", 3), Quota("more", 8)  # so few that none comes back while a test runs
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
    [half] = (await throttles.take("a", {WORK: WORK.limit // 2})).standings
    assert half.remaining == pytest.approx(WORK.limit // 2, rel=0.01)
    assert half.reset_s == pytest.approx(30, abs=0.5)
    [seen] = await throttles.peek("a", [WORK])
    assert half.remaining <= seen.remaining <= half.remaining + WORK.limit / 60 * (time.monotonic() - began) + 1


async def test_more_than_is_left_of_one_quota_takes_nothing_of_any(url) -> None:
    """Of the first and of the last; each tenant has its own."""
    throttles = Throttles(url, PATIENCE_S)
    costs = {FEW: 2, MORE: 5}
    taken = await throttles.take("b", costs)
    assert (taken.is_limited, [each.remaining for each in taken.standings]) == (False, [1, 3])
    for more in ({FEW: 2, MORE: 1}, {FEW: 1, MORE: 4}, {MORE: 9}):
        taken = await throttles.take("b", more)
        left = {standing.quota: standing.remaining for standing in taken.standings}
        assert (taken.is_limited, left) == (True, {quota: {FEW: 1, MORE: 3}[quota] for quota in more})
    assert (await throttles.take("b", {FEW: 1, MORE: 3})).is_limited is False
    assert (await throttles.peek("c", [FEW]))[0].remaining == 3


async def test_what_is_given_back_is_there_again_and_no_more_than_that(url) -> None:
    """At once and in whole, as though it had never been taken."""
    throttles = Throttles(url, PATIENCE_S)
    first, second = {FEW: 1, MORE: 2}, {FEW: 2, MORE: 6}
    one = await throttles.take("d", first)
    two = await throttles.take("d", second)
    assert [each.remaining for each in two.standings] == [0, 0]
    assert [each.remaining for each in await throttles.give_back("d", second, two)] == [2, 6]
    assert [each.remaining for each in await throttles.give_back("d", first, one)] == [3, 8]
    assert [each.remaining for each in await throttles.give_back("d", first, one)] == [3, 8]


async def test_of_many_at_once_as_many_are_let_through_as_there_are_units(url) -> None:
    """Though all of them saw that there was one: whoever takes is told whether it got it."""
    gateways = [Throttles(url, PATIENCE_S)] if url is None else [Throttles(url, PATIENCE_S) for _ in range(4)]
    for round_ in range(5):
        tenant = f"crowd {round_}"
        seen = await asyncio.gather(*(gateways[k % len(gateways)].peek(tenant, [ONE]) for k in range(24)))
        assert {standing.remaining for [standing] in seen} == {1}
        taken = await asyncio.gather(*(gateways[k % len(gateways)].take(tenant, {MORE: 1, ONE: 1}) for k in range(24)))
        assert sum(not each.is_limited for each in taken) == 1
        [left] = await gateways[0].peek(tenant, [MORE])
        assert left.remaining >= MORE.limit - 1


@given(st.integers(1, 50), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30), st.booleans()), max_size=40))
def test_no_one_uses_more_than_a_minutes_rest_and_what_came_since(
    limit: int, calls: list[tuple[int, int, bool]]
) -> None:
    """Whatever is given back in between; and what there is of a quota is never refused."""
    quota, used, now = Quota("requests", limit), [], 1000.0

    async def run() -> None:
        nonlocal now
        throttles = Throttles()
        for wait, cost, is_given_back in calls:
            now += wait / 4
            [before] = await throttles.peek("t", [quota])
            taken = await throttles.take("t", {quota: cost})
            assert taken.is_limited == (cost > before.remaining)
            assert 0 <= taken.standings[0].remaining <= limit
            if taken.is_limited:
                continue
            if is_given_back:
                await throttles.give_back("t", {quota: cost}, taken)
            else:
                used.append((now, cost))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("throttled.utils.now_mono_f", lambda: now)
        asyncio.run(run())
    for begin in range(len(used)):
        spent = sum(cost for _, cost in used[begin:])
        assert spent <= limit * (1 + (used[-1][0] - used[begin][0]) / 60) + 0.01 * len(used)


async def test_gateways_count_together_where_there_is_redis(redis) -> None:
    """In memory each counts for itself."""
    for url, left in ((redis.url, 0), (None, 2)):
        gateways = [Throttles(url, PATIENCE_S) for _ in range(3)]
        taken = [await gateway.take("together", {REQUESTS: 1}) for gateway in gateways]
        assert taken[-1].standings[0].remaining == left


async def test_a_redis_that_is_away_is_not_waited_for(redis, caplog) -> None:
    """This process counts instead, told in the log; a little later Redis is tried again."""
    throttles = Throttles(redis.url, PATIENCE_S)  # which is not needed where nobody listens
    first = await throttles.take("away", {REQUESTS: 1})
    assert first.standings[0].remaining == 2
    redis.stop()
    began = now()
    with caplog.at_level(logging.WARNING):
        assert (await throttles.give_back("away", {REQUESTS: 1}, first)) == first.standings  # it stays used
        taken = [await throttles.take("away", {REQUESTS: 1}) for _ in range(6)]
    assert now() - began < 2.0
    assert [each.standings[0].remaining for each in taken] == [2, 1, 0, 0, 0, 0]
    assert [each.is_limited for each in taken] == [False] * 3 + [True] * 3
    await throttles.give_back("away", {REQUESTS: 1}, taken[0])
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
