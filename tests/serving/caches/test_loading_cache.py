"""Values that are loaded once for all who ask, and kept as long as they are worth it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from lego_serve.serving.caches.loading_cache import LoadingCache
from tests.support.clocks import in_no_time


class Storage:
    """Loads take a moment each; some fail."""

    def __init__(self) -> None:
        self.loads: list[str] = []

    def of(self, key: str) -> Callable[[], Awaitable[str]]:
        """The load of a key."""

        async def load() -> str:
            self.loads.append(key)
            await asyncio.sleep(0.02)
            if key == "bad":
                raise ValueError("damaged")
            return key.upper()

        return load


def cache_of(max_bytes: int, linger_s: float = 0.0) -> LoadingCache[str]:
    """A cache by the clock of the running loop."""
    return LoadingCache(max_bytes, linger_s, asyncio.get_running_loop().time)


@in_no_time
async def test_all_who_ask_meanwhile_share_a_load() -> None:
    """It is made once; later it is a hit that took nothing."""
    storage, cache = Storage(), cache_of(10)
    found = await asyncio.gather(*(cache.get("a", 5, storage.of("a")) for _ in range(4)))
    assert ({f.value for f in found}, storage.loads) == ({"A"}, ["a"])
    assert all(not f.hit and f.load_s == pytest.approx(0.02) for f in found)
    again = await cache.get("a", 5, storage.of("a"))
    assert (again.value, again.hit, again.load_s) == ("A", True, 0.0)
    cache.ledger.check()


@in_no_time
async def test_a_failed_load_fails_who_asked_and_is_tried_again() -> None:
    """Nothing of it stays in the account."""
    storage, cache = Storage(), cache_of(10)
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            await cache.get("bad", 5, storage.of("bad"))
    assert (storage.loads, cache.ledger.used_bytes) == (["bad", "bad"], 0)


@in_no_time
async def test_giving_up_the_wait_does_not_stop_a_load() -> None:
    """Another one who waits for it has it."""
    storage, cache = Storage(), cache_of(10)
    first, second = (asyncio.ensure_future(cache.get("a", 5, storage.of("a"))) for _ in range(2))
    await asyncio.sleep(0.005)
    first.cancel()
    assert (await second).value == "A"


@in_no_time
async def test_what_is_in_use_is_not_evicted_and_what_does_not_fit_is_handed_over_all_the_same() -> None:
    """A pin holds; a value that cannot be kept is loaded for those who asked."""
    storage, cache = Storage(), cache_of(10)
    await cache.get("a", 8, storage.of("a"))
    assert cache.pin("a")
    assert (await cache.get("b", 8, storage.of("b"))).value == "B"
    assert "a" in cache
    assert not cache.pin("b")
    assert (await cache.get("huge", 80, storage.of("huge"))).value == "HUGE"
    cache.release("a")
    for _ in range(5):
        await cache.get("b", 8, storage.of("b"))
    assert "b" in cache
    assert cache.peek("a") is None
    cache.ledger.check()


@in_no_time
async def test_a_value_loaded_ahead_can_be_asked_for_a_while_even_where_it_is_not_kept() -> None:
    """What was begun before it was asked for is not begun again."""
    storage, cache = Storage(), cache_of(1, linger_s=0.1)
    cache.start_load("a", 5, storage.of("a"))
    await asyncio.sleep(0.04)
    assert (await cache.get("a", 5, storage.of("a"))).value == "A"
    assert storage.loads == ["a"]
    await asyncio.sleep(0.15)
    await cache.get("a", 5, storage.of("a"))
    assert storage.loads == ["a", "a"]


@in_no_time
async def test_what_is_not_kept_goes_once_those_who_began_it_have_it() -> None:
    """Two began a load and the second may still ask after the first has; then it is loaded anew."""
    storage, cache = Storage(), cache_of(1, linger_s=10.0)
    for _ in range(2):
        cache.start_load("a", 5, storage.of("a"))
    await asyncio.sleep(0.04)
    for _ in range(2):
        assert (await cache.get("a", 5, storage.of("a"))).value == "A"
        cache.release_waiter("a")
    assert storage.loads == ["a"]
    await cache.get("a", 5, storage.of("a"))
    assert storage.loads == ["a", "a"]


@in_no_time
async def test_what_nobody_waits_for_does_not_stay() -> None:
    """A value loaded on suspicion that could not be kept is let go at once."""
    storage, cache = Storage(), cache_of(1, linger_s=10.0)
    cache.start_load("a", 5, storage.of("a"), wanted=False)
    await asyncio.sleep(0.04)
    await cache.get("a", 5, storage.of("a"))
    assert storage.loads == ["a", "a"]


@in_no_time
async def test_a_load_begun_for_what_has_come_meanwhile_is_none() -> None:
    """The value that is here is handed over."""
    storage, cache = Storage(), cache_of(10)
    await cache.get("a", 5, storage.of("a"))
    assert await cache.start_load("a", 5, storage.of("a")) == ("A", 0.0)
    assert storage.loads == ["a"]
    cache.ledger.check()
