"""Redis that is away, silent, full or read only: the store says so soon, and goes on when it is back."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lego_serve.errors import StoreUnavailable
from lego_serve.jobstore.breaker import FAILURES, PROBE_EVERY_S, Breaker
from lego_serve.jobstore.redis_client import connect
from lego_serve.jobstore.redis_store import RedisJobStore
from tests.support.clocks import in_no_time
from tests.support.jobstore.jobs import new_job
from tests.support.jobstore.redis_server import RedisServer

PATIENCE_S = 60.0  # where it is not the client's own that counts
SOON_S = 1.0  # four times the client's timeout


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisJobStore]:
    """An empty store."""
    client = connect(redis_server.url, timeout_s=PATIENCE_S)
    await client.flushall()
    store = RedisJobStore(client, 15.0)
    yield store
    await store.close()


@pytest.fixture
def socket() -> Iterator[Path]:
    """A path that is short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="lego-silent-") as folder:
        yield Path(folder) / "redis.sock"


@in_no_time
async def test_a_silent_server_is_given_up_soon(socket: Path) -> None:
    """And after a few times not asked any more, a probe a second apart."""
    clock = asyncio.get_running_loop().time
    silent = await asyncio.start_unix_server(lambda _reader, _writer: asyncio.sleep(60), str(socket))
    store = RedisJobStore(connect(f"unix://{socket}"), 15.0)
    store._scripts._breaker.clock = clock
    started = clock()
    for _ in range(FAILURES):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.get(new_job(1).id)
    assert clock() - started < FAILURES * SOON_S
    assert not store.is_available
    started = clock()
    with pytest.raises(StoreUnavailable):
        await store.get(new_job(1).id)
    assert clock() == started
    await store.close()
    silent.close()


@pytest.mark.parametrize("code", ["DENIED Redis is running in protected mode", "NOPERM this user has no permissions"])
async def test_a_server_that_lets_nobody_in_is_away(socket: Path, code: str) -> None:
    """It answers whatever is asked with its refusal, as one in protected mode does."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(f"-{code}\r\n".encode())
        writer.close()

    refusing = await asyncio.start_unix_server(refuse, str(socket))
    store = RedisJobStore(connect(f"unix://{socket}", timeout_s=PATIENCE_S), 15.0)
    for _ in range(FAILURES):
        with pytest.raises(StoreUnavailable):
            await store.take_outbox(1, 1.0)
    assert not store.is_available
    await store.close()
    refusing.close()


async def test_a_server_that_comes_back_has_what_it_acknowledged(
    store: RedisJobStore, redis_server: RedisServer
) -> None:
    """Killed under load, five times; meanwhile the store is unavailable, which is no error of the caller's.

    With ``appendfsync always``: ``everysec`` answers before it has written where the disk is slow.
    """
    acknowledged = []
    await write_always(redis_server)
    for number in range(500):
        if number % 100 == 50:
            redis_server.stop()
            with pytest.raises(StoreUnavailable):
                await store.put(new_job(10_000 + number))
            redis_server.start()
            await write_always(redis_server)
        job = new_job(number)
        acknowledged.append((await store.put(job)).id)
    held = [await store.get(job_id) for job_id in acknowledged]
    assert [job and job.id for job in held] == acknowledged


async def write_always(redis_server: RedisServer) -> None:
    """Have Redis write before it answers, until it is started again."""
    client = connect(redis_server.url, PATIENCE_S)
    await client.config_set("appendfsync", "always")
    await client.aclose()


@pytest.mark.parametrize(("setting", "value", "usual"), [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")])
async def test_a_server_that_takes_no_writes_is_unavailable(
    store: RedisJobStore, redis_server: RedisServer, setting: str, value: str, usual: str
) -> None:
    """Full, or without the replicas it wants; reads of what it has may go on."""
    await store.put(new_job(1))
    client = connect(redis_server.url, PATIENCE_S)
    await client.config_set(setting, value)
    try:
        with pytest.raises(StoreUnavailable, match="takes no writes"):
            await store.put(new_job(2))
    finally:
        await client.config_set(setting, usual)
        await client.aclose()
    assert (await store.put(new_job(3))).id == new_job(3).id


def test_a_breaker_opens_after_failures_in_a_row_and_lets_a_probe_through() -> None:
    """And one success closes it."""
    now = 100.0
    breaker = Breaker(lambda: now)
    for _ in range(FAILURES):
        assert breaker.admits()
        breaker.note_failure()
    assert breaker.is_open
    assert not breaker.admits()
    now += PROBE_EVERY_S
    assert breaker.admits()
    assert not breaker.admits()
    breaker.note_success()
    assert breaker.admits()
    assert not breaker.is_open
