"""A gateway whose store holds a record that cannot be read, or does what nobody expected, serves all else."""

import asyncio
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from lego_serve.configuration.jobs import Jobs
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.job_storage import release_jobs
from tests.support.gateway.client import error_of
from tests.support.gateway.durable import QUICK, Cluster, Gateway, until, wait_until
from tests.support.gateway.runner import FakeRunner

IMAGES, JOBS = "/v1/images/generations", "/v1/jobs"
ASYNC = {"prefer": "respond-async"}
BODY = {"prompt": "a red circle"}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """One store."""
    return Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny"))


async def submit(gateway: Gateway) -> str:
    """Submit a job and return its id."""
    answer = await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def damage(cluster: Cluster, job_id: str) -> None:
    """Put the record of a later version in a job's place."""
    with apsw.Connection(str(cluster.folder / "jobs.db")) as db:
        db.set_busy_timeout(5000)
        db.execute("UPDATE jobs SET record='{\"format\":2}' WHERE id=?", (job_id,))


async def test_a_damaged_job_that_waits_keeps_no_other_waiting(cluster: Cluster) -> None:
    """Whoever asks for it is told that the server cannot read it, and lists leave it out."""
    cluster.jobs = replace(QUICK, max_running=1)
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    async with cluster.gateway(runner) as gateway:
        ids = [await submit(gateway) for _ in range(4)]
        await wait_until(lambda: bool(runner.waiting))
        damage(cluster, ids[1])
        runner.gate.set()
        for job_id in (ids[0], *ids[2:]):
            assert (await until(gateway.client, job_id))["status"] == "completed"
        assert error_of(await gateway.client.get(f"{JOBS}/{ids[1]}"))[:2] == (500, "unreadable_record")
        assert [job["id"] for job in (await gateway.client.get(JOBS)).json()["data"]] == [ids[3], ids[2], ids[0]]
        assert (await gateway.app.state.jobs.store.counts()).unreadable == 1


async def test_a_job_that_is_damaged_while_it_runs_ends_all_the_same(cluster: Cluster) -> None:
    """Its gateway has what it needs of it, and writes a whole record in its place."""
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    async with cluster.gateway(runner) as gateway:
        job_id = await submit(gateway)
        await wait_until(lambda: bool(runner.waiting))
        damage(cluster, job_id)
        runner.gate.set()
        await wait_until(lambda: not gateway.app.state.jobs.worker.running)
        assert (await until(gateway.client, job_id))["status"] == "completed"


async def test_the_jobs_of_a_dead_gateway_are_released_beside_a_damaged_one(cluster: Cluster) -> None:
    """By the process that watches gateways, which would end with an error of its own."""
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    async with cluster.gateway(runner) as gateway:
        ids = [await submit(gateway) for _ in range(2)]
        await wait_until(lambda: len(runner.waiting) == 2)
        damage(cluster, ids[0])
        owner = gateway.app.state.jobs.worker._parts.settings.owner
        await asyncio.to_thread(release_jobs, Jobs(), cluster.folder, owner)
        store = gateway.app.state.jobs.store
        assert list(await store.owned_ids(owner)) in ([], [ids[1]])  # or it was claimed again already
        record = await store.get(ids[1])
        assert record.deaths == 1


async def test_a_folder_that_cannot_be_opened_is_no_end_of_whoever_releases(tmp_path: Path) -> None:
    """The lease ends by itself."""
    (tmp_path / "file").write_text("no folder")
    await asyncio.to_thread(release_jobs, Jobs(), tmp_path / "file", "gateway")


async def test_a_loop_that_meets_the_unexpected_goes_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; jobs are swept again as soon as that works."""
    monkeypatch.setattr("lego_serve.gateway.jobs.worker.RETRY_S", 0.02)
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    async with cluster.gateway(runner) as gateway:
        store = gateway.app.state.jobs.store

        async def fail(*_words: object) -> None:
            raise OSError(30, "Read-only file system")

        with monkeypatch.context() as patch:
            for name in ("due", "claim", "beat", "owned_ids"):
                patch.setattr(store, name, fail)
            await wait_until(lambda: caplog.text.count("unexpected error") >= 3)
        answer = await gateway.client.post(IMAGES, json=BODY | {"deadline_ms": 50}, headers=ASYNC)
        assert (await until(gateway.client, answer.json()["id"]))["status"] == "expired"
