"""A store of jobs of any kind for a test, the time as it knows it, and its records as texts."""

from dataclasses import dataclass
from pathlib import Path

import apsw
from redis.asyncio import Redis

from lego_serve.core.durable_jobs.store import JobStore
from lego_serve.jobstore.memory import MemoryJobStore
from lego_serve.jobstore.redis_client import connect
from lego_serve.jobstore.redis_store import PREFIX, RedisJobStore
from lego_serve.jobstore.sqlite import SqliteJobStore
from tests.support.jobstore.clock import TEST_TIME, set_test_time

LEASE_S = 15.0


@dataclass
class Stage:
    """A store and its time; ``path`` is its database, ``client`` its Redis, where it has one."""

    store: JobStore
    now: float = 1000.0
    path: Path | None = None
    client: Redis | None = None

    async def wait(self, seconds: float) -> None:
        """Move the time."""
        self.now += seconds
        if self.client is not None:
            await set_test_time(self.client, self.now)

    async def text_of(self, job_id: str) -> str:
        """The record of a job as the store keeps it."""
        if self.client is not None:
            return str(await self.client.hget(f"{PREFIX}job:{job_id}", "record"))  # type: ignore[misc]
        with apsw.Connection(str(self.path)) as db:
            return str(db.execute("SELECT record FROM jobs WHERE id=?", (job_id,)).get)

    async def damage(self, job_id: str, text: str | bytes) -> None:
        """Put another text in place of a job's record."""
        if self.client is not None:
            await self.client.hset(f"{PREFIX}job:{job_id}", "record", text)  # type: ignore[misc]
            return
        await self.execute("UPDATE jobs SET record=CAST(? AS TEXT) WHERE id=?", text, job_id)

    async def execute(self, words: str, *values: str | bytes) -> None:
        """Change the database behind the store's back."""
        with apsw.Connection(str(self.path)) as db:
            db.set_busy_timeout(5000)
            db.execute(words, values)


async def open_stage(kind: str, folder: Path, redis_url: str = "") -> Stage:
    """Return an empty store: ``memory``, ``sqlite`` or ``redis``."""
    stage = Stage(MemoryJobStore(lambda: stage.now, LEASE_S))
    if kind == "sqlite":
        stage.path = folder / "jobs.db"
        stage.store = SqliteJobStore(stage.path, lambda: stage.now, LEASE_S)
    elif kind == "redis":
        stage.client = client = connect(redis_url, timeout_s=60.0)
        await client.flushall()
        stage.store = RedisJobStore(client, LEASE_S, now_lua=TEST_TIME)
    await stage.wait(0)
    return stage
