"""Those who ask the same at the same time have one look between them, and nobody is told what was so before."""

import asyncio

import pytest

from lego_serve.gateway.queue.shared_looks import SharedLooks


class Sight:
    """Something to look at, which changes; looks wait for ``gate``."""

    def __init__(self) -> None:
        self.now, self.looks = 0, list[str]()
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def look(self, key: str) -> int:
        """What it is as the look begins."""
        self.looks.append(key)
        seen = self.now
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return seen


async def settle() -> None:
    """Let everything run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_asks_at_once_shares_a_look_and_who_comes_later_shares_the_next() -> None:
    """Thirty of them cost two looks; the second sees what the first could not."""
    sight = Sight()
    looks = SharedLooks(sight.look)
    first = [asyncio.ensure_future(looks.ask("a")) for _ in range(10)]
    await settle()
    sight.now = 1
    later = [asyncio.ensure_future(looks.ask("a")) for _ in range(20)]
    await settle()
    sight.gate.set()
    assert await asyncio.gather(*first) == [0] * 10
    assert await asyncio.gather(*later) == [1] * 20
    assert sight.looks == ["a", "a"]


async def test_each_key_has_its_own_look() -> None:
    """They do not wait for each other."""
    sight = Sight()
    looks = SharedLooks(sight.look)
    both = [asyncio.ensure_future(looks.ask(key)) for key in ("a", "b")]
    await settle()
    assert sorted(sight.looks) == ["a", "b"]
    sight.gate.set()
    assert await asyncio.gather(*both) == [0, 0]


async def test_all_hear_of_an_error_and_the_next_look_is_another() -> None:
    """Also those who come while the look that fails is under way."""
    sight = Sight()
    looks = SharedLooks(sight.look)
    sight.error = ValueError("no")
    first = [asyncio.ensure_future(looks.ask("a")) for _ in range(2)]
    await settle()
    sight.gate.set()
    for each in first:
        with pytest.raises(ValueError, match="no"):
            await each
    sight.error = None
    assert await looks.ask("a") == 0


async def test_who_leaves_takes_nobody_along() -> None:
    """The look goes on for the others."""
    sight = Sight()
    looks = SharedLooks(sight.look)
    gone, stays = (asyncio.ensure_future(looks.ask("a")) for _ in range(2))
    await settle()
    gone.cancel()
    await settle()
    sight.gate.set()
    assert await stays == 0
    assert sight.looks == ["a"]


async def test_what_was_seen_a_moment_ago_is_good_enough_where_that_was_said() -> None:
    """For so long, and no longer."""
    sight = Sight()
    sight.gate.set()
    looks = SharedLooks(sight.look, fresh_s=0.5)
    assert await looks.ask("a") == 0
    sight.now = 1
    assert await looks.ask("a") == 0
    await asyncio.sleep(0.6)
    assert await looks.ask("a") == 1
