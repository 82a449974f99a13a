"""The time as a Redis store of a test knows it: a key that the test sets, in place of the server's clock."""

from redis.asyncio import Redis

TEST_TIME = "return tonumber(redis.call('GET', P .. 'test_time'))"


async def set_test_time(client: Redis, now: float) -> None:
    """Say what time it is."""
    await client.set("{lego}:test_time", repr(now))
