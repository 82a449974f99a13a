"""Images of attempts that came to nothing go at once, so that the bytes counted of a tenant are those on the disk."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lego_serve.configuration.jobs import Jobs
from lego_serve.core.durable_jobs.checkpoint import JobCheckpoint
from lego_serve.core.durable_jobs.inputs import take_apart
from lego_serve.core.durable_jobs.store import JobSize
from lego_serve.core.durable_jobs.transitions import MAX_DEATHS
from lego_serve.errors import StoreUnavailable
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.job_storage import release_jobs
from lego_serve.jobstore.files import JobFiles
from lego_serve.jobstore.sweeping import release
from tests.support.gateway.durable import QUICK, Cluster, Gateway, storage_in, until, wait_until
from tests.support.gateway.runner import FakeRunner
from tests.support.jobstore.jobs import new_job

IMAGES, JOBS = "/v1/images/generations", "/v1/jobs"
ASYNC = {"prefer": "respond-async"}
BODY = {"prompt": "a red circle", "n": 2}
ONE = replace(QUICK, max_running=1)  # so that a gateway whose job was given to others does not take it again


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """One store."""
    return Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny"))


def held() -> FakeRunner:
    """A runner whose jobs wait."""
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    return runner


async def submitted(gateway: Gateway) -> str:
    """A job for two images, which may run elsewhere."""
    return str((await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json()["id"])


def on_the_disk(cluster: Cluster) -> dict[str, int]:
    """The files of all jobs, by name, with their bytes."""
    return {file.name: file.stat().st_size for file in cluster.folder.glob("job_*/*")}


async def counted(gateway: Gateway) -> int:
    """The bytes that are counted of the tenant."""
    return int((await gateway.app.state.jobs.store.held("default")).stored_bytes)


async def only_left(cluster: Cluster, gateway: Gateway, names: set[str]) -> None:
    """Wait until these files alone are there, which are those that are counted."""
    await wait_until(lambda: on_the_disk(cluster).keys() == names)
    assert await counted(gateway) == sum(on_the_disk(cluster).values())


def results_written_by(monkeypatch: pytest.MonkeyPatch, write: Callable[[Callable[[], str], int, int], str]) -> None:
    """Write results as ``write`` says, which is given the files' own way, the attempt and the image's place."""
    real = JobFiles.write_result

    def written(files: JobFiles, job: str, attempt: int, index: int, content: bytes, image_format: str) -> str:
        return write(lambda: real(files, job, attempt, index, content, image_format), attempt, index)

    monkeypatch.setattr(JobFiles, "write_result", written)


async def test_a_job_that_fails_between_its_images_keeps_none(cluster: Cluster, monkeypatch) -> None:
    """The disk is full at the second."""

    def write(real: Callable[[], str], _attempt: int, index: int) -> str:
        if index == 1:
            raise StoreUnavailable("The folder of jobs is full.")
        return real()

    results_written_by(monkeypatch, write)
    async with cluster.gateway() as gateway:
        job_id = await submitted(gateway)
        assert (await until(gateway.client, job_id))["status"] == "failed"
        await only_left(cluster, gateway, set())


async def test_what_a_dead_attempt_has_written_goes_as_the_next_begins(cluster: Cluster, monkeypatch) -> None:
    """Of a gateway that died between its images and the record; also a file that it was about to write."""
    cluster.jobs = ONE
    async with cluster.gateway(held()) as first:
        job_id = await submitted(first)
        await wait_until(lambda: bool(first.runner.waiting))
        for name in ("1-0.png", "1-1.png.0123456789abcdef.tmp"):
            (cluster.folder / job_id).mkdir(exist_ok=True)
            (cluster.folder / job_id / name).write_bytes(b"dead")
        async with cluster.gateway(held()) as second:
            await release(second.app.state.jobs.store, "gateway 1")
            await wait_until(lambda: bool(second.runner.waiting))
            assert on_the_disk(cluster) == {}
            assert second.runner.gate is not None
            second.runner.gate.set()
            await until(second.client, job_id)
            await only_left(cluster, second, {"2-0.png", "2-1.png"})


async def test_an_attempt_that_wakes_up_late_takes_its_images_away(cluster: Cluster, monkeypatch) -> None:
    """It writes both when another attempt has ended the job, whose images stay."""
    cluster.jobs = replace(ONE, progress_s=60.0)
    async with cluster.gateway(held()) as first:
        job_id = await submitted(first)
        await wait_until(lambda: bool(first.runner.waiting))

        hears_nothing = asyncio.Event()

        async def sleep(_timeout_s: float) -> bool:
            hears_nothing.set()
            await asyncio.sleep(60)
            return False

        monkeypatch.setattr(first.app.state.jobs.store, "wait_for_change", sleep)
        await asyncio.wait_for(hears_nothing.wait(), 60)  # after what it was waiting for before
        late: list[int] = []
        results_written_by(monkeypatch, lambda real, attempt, _index: (late.append(attempt), real())[1])
        async with cluster.gateway() as second:
            await release(second.app.state.jobs.store, "gateway 1")
            await until(second.client, job_id)
            assert first.runner.gate is not None
            first.runner.gate.set()
            await wait_until(lambda: late == [2, 2, 1, 1] and not first.app.state.jobs.worker.running)
            await only_left(cluster, second, {"2-0.png", "2-1.png"})
            assert (await second.client.get(f"{JOBS}/{job_id}/images/1")).status_code == 200


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_a_job_that_is_ended_while_an_image_is_written_keeps_none(cluster: Cluster, monkeypatch, how) -> None:
    """Not even the one whose file appears when all else is gone."""
    writes, goes_on = threading.Event(), threading.Event()

    def write(real: Callable[[], str], _attempt: int, index: int) -> str:
        if index == 1:
            writes.set()
            goes_on.wait(60)
        return real()

    results_written_by(monkeypatch, write)
    monkeypatch.setattr("lego_serve.gateway.jobs.parts.LAST_WRITE_S", 60.0)
    async with cluster.gateway() as gateway:
        job_id = await submitted(gateway)
        await wait_until(writes.is_set)
        path = f"{JOBS}/{job_id}"
        answer = await (gateway.client.delete(path) if how == "delete" else gateway.client.post(f"{path}/cancel"))
        assert answer.status_code in (200, 204)
        assert not await counted(gateway)
        goes_on.set()
        await asyncio.sleep(0.3)
        await only_left(cluster, gateway, set())


async def test_images_stay_where_the_answer_to_their_jobs_end_was_lost(cluster: Cluster, monkeypatch) -> None:
    """The end was written: the second try is refused, and is no reason to remove anything."""
    async with cluster.gateway(held()) as gateway:
        job_id = await submitted(gateway)
        await wait_until(lambda: bool(gateway.runner.waiting))
        store, lost = gateway.app.state.jobs.store, []
        real = store.write

        async def write(change) -> bool:
            done = await real(change)
            if change.record.status == "completed" and not lost:
                lost.append(time.monotonic())
                raise StoreUnavailable("The answer was lost.")
            return bool(done)

        monkeypatch.setattr(store, "write", write)
        monkeypatch.setattr("lego_serve.gateway.jobs.attempt.PAUSE_S", 0.02)
        assert gateway.runner.gate is not None
        gateway.runner.gate.set()
        await until(gateway.client, job_id, "completed")
        await wait_until(lambda: bool(lost) and not gateway.app.state.jobs.worker.running)
        await only_left(cluster, gateway, {"1-0.png", "1-1.png"})


async def test_a_job_that_the_supervisor_ends_leaves_nothing(tmp_path: Path) -> None:
    """At the third death of whoever ran it: its request's image, its checkpoints and what it made go at once."""
    storage = storage_in(tmp_path / "jobs")
    inputs = take_apart({"files": {"image": b"image"}}).values
    job = new_job(1, inputs=inputs)
    storage.files.write_input(job.id, b"image")
    await storage.store.put(job, JobSize(passing=len(b"image")))
    for death in range(1, MAX_DEATHS + 1):
        await storage.store.beat("gateway")
        [claimed] = await storage.store.claim("gateway", 1, {})
        storage.files.write_result(job.id, death, 0, b"made")
        await storage.checkpoints.write(JobCheckpoint(job.id, death, "hash", {}))
        assert claimed.attempt == death
        assert list((tmp_path / "jobs" / job.id).glob("*.input"))
        await asyncio.to_thread(release_jobs, Jobs(), tmp_path / "jobs", "gateway")
    ended = await storage.store.get(job.id)
    assert (ended.status, ended.error.code) == ("failed", "attempts_exhausted")
    assert list((tmp_path / "jobs" / job.id).iterdir()) == []
    assert (await storage.store.held(job.request.tenant)).stored_bytes == 0
    await storage.store.close()
