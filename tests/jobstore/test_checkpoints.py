"""Checkpoints of durable jobs: in files, and in Redis, which knows whose count."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from lego_serve.core.durable_jobs.checkpoint import JobCheckpoint, LaneKey
from lego_serve.core.durable_jobs.transitions import complete, hand_over
from lego_serve.core.jobs.progress import LaneCheckpoint
from lego_serve.errors import StaleAttempt, StoreUnavailable
from lego_serve.jobstore.blobs.folder import FolderBlobs
from lego_serve.jobstore.redis_client import connect, connect_for_bytes
from lego_serve.jobstore.redis_store import RedisJobStore
from lego_serve.jobstore.running import redis_checkpoints
from lego_serve.jobstore.running.checkpoints import FileCheckpoints
from lego_serve.jobstore.running.redis_checkpoints import RedisCheckpoints
from lego_serve.jobstore.sweeping import change, release
from tests.support.jobstore.jobs import new_job
from tests.support.jobstore.redis_server import RedisServer

JOB = new_job(1).id
KEY = LaneKey("denoise", 0)


def checkpoint(attempt: int, state: bytes = b"state", job_id: str = JOB) -> JobCheckpoint:
    """One of a single lane."""
    return JobCheckpoint(job_id, attempt, "workflow", {KEY: LaneCheckpoint(attempt, state)})


@pytest.fixture
def files(tmp_path: Path) -> FileCheckpoints:
    """A folder that is not there yet."""
    return FileCheckpoints(FolderBlobs(tmp_path / "jobs"))


class Shared:
    """A store in Redis, and checkpoints of two gateways that share nothing else."""

    def __init__(self, url: str, folder: Path) -> None:
        self.store = RedisJobStore(connect(url, 60.0), 15.0)
        self.client: Redis = connect_for_bytes(url)
        self.first, self.second = (
            RedisCheckpoints(connect_for_bytes(url), FileCheckpoints(FolderBlobs(folder / name))) for name in "ab"
        )

    async def close(self) -> None:
        """Close what is open."""
        await self.store.close()
        await self.client.aclose()
        for each in (self.first, self.second):
            await each.close()


@pytest.fixture
async def shared(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Shared]:
    """With a job that the owner "first" runs, as its first attempt."""
    redis_server.flush()
    made = Shared(redis_server.url, tmp_path)
    await made.store.put(new_job(1))
    assert [job.attempt for job in await made.store.claim("first", 1)] == [1]
    yield made
    await made.close()


async def test_a_job_resumes_where_the_latest_whole_checkpoint_is(files: FileCheckpoints, tmp_path: Path) -> None:
    """One that power loss cut off is passed over, and so is one of another job."""
    assert await files.latest(JOB) is None
    for attempt in (1, 2, 10):
        await files.write(checkpoint(attempt))
    folder = tmp_path / "jobs" / JOB
    assert await files.latest(JOB) == checkpoint(10)
    (folder / "10.ckpt").write_bytes((folder / "10.ckpt").read_bytes()[:-1])
    assert await files.latest(JOB) == checkpoint(2)
    other = new_job(2).id
    await files.write(checkpoint(3, job_id=other))
    (tmp_path / "jobs" / other / "3.ckpt").rename(folder / "3.ckpt")
    assert await files.latest(JOB) == checkpoint(2)
    await files.delete(JOB)
    assert await files.latest(JOB) is None


async def test_a_checkpoint_is_not_synced(files: FileCheckpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes again in seconds."""
    synced: list[int] = []
    monkeypatch.setattr("lego_serve.jobstore.blobs.folder.os.fsync", synced.append)
    await files.write(checkpoint(1))
    assert synced == []


async def test_another_machine_goes_on_from_what_one_has_kept_in_redis(shared: Shared) -> None:
    """Without a file, and for an hour at most."""
    assert await shared.second.latest(JOB) is None
    await shared.first.write(checkpoint(1, b"first steps"))
    await shared.first.write(checkpoint(1, b"more steps"))
    assert await shared.second.latest(JOB) == checkpoint(1, b"more steps")
    assert 3590 < await shared.client.ttl(f"{{lego}}:ckpt:{JOB}") <= 3600


async def test_an_attempt_that_does_not_count_any_more_keeps_nothing(shared: Shared) -> None:
    """Nor does one at a job that nobody runs, or that nobody knows; the newer attempt's stays."""
    await shared.first.write(checkpoint(1))
    await release(shared.store, "first")
    with pytest.raises(StaleAttempt):
        await shared.first.write(checkpoint(1, b"late"))
    assert await shared.second.latest(JOB) == checkpoint(1)  # for whoever claims it next
    await shared.store.claim("second", 1)
    await shared.second.write(checkpoint(2))
    with pytest.raises(StaleAttempt):
        await shared.first.write(checkpoint(1, b"late"))
    assert await shared.first.latest(JOB) == checkpoint(2)
    with pytest.raises(StaleAttempt):
        await shared.first.write(checkpoint(1, job_id=new_job(2).id))


async def test_the_end_of_a_job_takes_its_checkpoint_with_it(shared: Shared) -> None:
    """In the same step, whoever writes it; what is handed over keeps its own."""
    await shared.first.write(checkpoint(1))
    [record] = await shared.store.owned("first")
    await change(shared.store, record, lambda held: hand_over(held, 1))
    assert await shared.second.latest(JOB) == checkpoint(1)
    [record] = await shared.store.claim("second", 1)
    await change(shared.store, record, lambda held: complete(held, 2, {}, 2_000.0))
    assert await shared.second.latest(JOB) is None


async def test_what_is_too_large_for_redis_is_a_file(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found again there, by attempt, and goes when the job has ended."""
    monkeypatch.setattr(redis_checkpoints, "MAX_BYTES", 1000)
    await shared.first.write(checkpoint(1))
    await shared.first.write(checkpoint(1, b"x" * 1000))
    await shared.first.write(checkpoint(2, b"y" * 1000))
    assert await shared.first.latest(JOB) == checkpoint(2, b"y" * 1000)
    await shared.first.delete(JOB)
    assert await shared.first.latest(JOB) == checkpoint(1)


async def test_a_checkpoint_in_redis_that_is_damaged_is_none(shared: Shared) -> None:
    """The job starts again."""
    await shared.client.set(f"{{lego}}:ckpt:{JOB}", b"LEGOCKPT nonsense")
    assert await shared.first.latest(JOB) is None
    await shared.first.write(checkpoint(1))
    content = await shared.client.get(f"{{lego}}:ckpt:{JOB}")
    await shared.client.set(f"{{lego}}:ckpt:{new_job(2).id}", content)
    assert await shared.first.latest(new_job(2).id) is None


async def test_where_redis_is_away_nothing_is_kept(tmp_path: Path) -> None:
    """The caller is told, and tries again later."""
    away = RedisCheckpoints(connect_for_bytes(f"unix://{tmp_path}/none.sock"), FileCheckpoints(FolderBlobs(tmp_path)))
    with pytest.raises(StoreUnavailable):
        await away.write(checkpoint(1))
    with pytest.raises(StoreUnavailable):
        await away.latest(JOB)
    await away.close()
