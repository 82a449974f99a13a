"""Previews that one gateway leaves and another shows: in files, and in Redis."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.durable_jobs.preview import JobPreview, latest_of_each
from lego_serve.core.durable_jobs.transitions import cancel
from lego_serve.jobstore.blobs.folder import FolderBlobs
from lego_serve.jobstore.redis_client import connect, connect_for_bytes
from lego_serve.jobstore.redis_store import RedisJobStore
from lego_serve.jobstore.running.previews import FilePreviews, Previews
from lego_serve.jobstore.running.redis_previews import RedisPreviews
from lego_serve.jobstore.sweeping import change, release
from tests.support.jobstore.jobs import new_job
from tests.support.jobstore.redis_server import RedisServer

JOB = new_job(1).id
STEPS = 20


def preview(step: int, lane: int = 0) -> JobPreview:
    """One, whose file says what it is of, with what separates facts among its bytes."""
    return JobPreview(JOB, lane, step, STEPS, f"jpeg {lane} {step} ".encode() + bytes(range(256)))


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisJobStore]:
    """Redis, with a job that the owner "first" runs."""
    redis_server.flush()
    made = RedisJobStore(connect(redis_server.url, 60.0), 15.0)
    await made.put(new_job(1))
    await made.claim("first", 1)
    yield made
    await made.close()


@pytest.fixture(params=["files", "redis"])
async def previews(request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer, store: RedisJobStore):
    """Where each is kept."""
    del store
    is_file = request.param == "files"
    made: Previews = (
        FilePreviews(FolderBlobs(tmp_path)) if is_file else RedisPreviews(connect_for_bytes(redis_server.url))
    )
    yield made
    await made.close()


async def test_the_latest_of_each_lane_is_shown(previews: Previews) -> None:
    """By lane."""
    assert list(await previews.latest(JOB, 1)) == []
    for each in (preview(5), preview(5, 1), preview(10, 1), preview(15)):
        await previews.put(1, each)
    assert list(await previews.latest(JOB, 1)) == [preview(15), preview(10, 1)]


async def test_those_of_another_attempt_are_not_shown(previews: Previews) -> None:
    """The job has gone back to where its checkpoint was."""
    await previews.put(1, preview(15))
    assert list(await previews.latest(JOB, 2)) == []


async def test_an_ended_job_leaves_none_in_its_folder(tmp_path: Path) -> None:
    """Its checkpoints and images are no previews, and stay."""
    previews = FilePreviews(FolderBlobs(tmp_path))
    await previews.put(1, preview(5))
    await previews.put(2, preview(10, 3))
    for name in ("1.ckpt", "1-0.png"):
        (tmp_path / JOB / name).write_bytes(b"")
    await previews.delete(JOB)
    assert sorted(path.name for path in (tmp_path / JOB).iterdir()) == ["1-0.png", "1.ckpt"]


async def test_redis_forgets_them_with_the_jobs_end(redis_server: RedisServer, store: RedisJobStore) -> None:
    """And takes none of an attempt that does not count any more."""
    previews = RedisPreviews(connect_for_bytes(redis_server.url))
    await previews.put(1, preview(5))
    await release(store, "first")
    await previews.put(1, preview(10))
    assert list(await previews.latest(JOB, 1)) == [preview(5)]
    (record,) = await store.claim("second", 1)
    await previews.put(1, preview(10))
    await previews.put(2, preview(5))
    assert list(await previews.latest(JOB, 2)) == [preview(5)]
    await change(store, record, lambda held: cancel(held, 2_000.0))
    assert list(await previews.latest(JOB, 2)) == []
    await previews.close()


@given(st.lists(st.builds(preview, st.integers(0, STEPS), st.integers(0, 3)), max_size=20))
def test_of_each_lane_the_one_of_most_steps_is_the_latest(found: list[JobPreview]) -> None:
    """In whatever order they are found."""
    latest = latest_of_each(found)
    assert [each.lane for each in latest] == sorted({each.lane for each in found})
    assert all(each.step == max(other.step for other in found if other.lane == each.lane) for each in latest)
