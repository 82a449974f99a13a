"""What a tenant's durable jobs may take: places, turns and bytes, and what becomes of their files."""

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.durable_jobs.inputs import passing_inputs
from lego_serve.core.durable_jobs.store import JobSize, Room
from lego_serve.core.rate_limits import TenantLimits
from lego_serve.gateway.jobs import submission as submissions
from lego_serve.gateway.jobs.submission import EDITS, GENERATIONS, Submission, size_of
from lego_serve.gateway.limits.tenant_limits import TenantLimiter
from lego_serve.gateway.requests.schemas import EditRequest
from lego_serve.gateway.settings import ApiKey, GatewaySettings, LimitSettings
from tests.support.gateway.client import error_of, file_of, mask_of
from tests.support.gateway.durable import QUICK, Cluster, until, wait_until
from tests.support.gateway.runner import FakeRunner

JOBS = "/v1/jobs"
ASYNC = {"prefer": "respond-async"}
BODY = {"prompt": "a red circle"}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """One server's store, without keys."""
    return Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny"))


def held() -> FakeRunner:
    """A runner whose jobs wait."""
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    return runner


async def edit(client: httpx2.AsyncClient) -> httpx2.Response:
    """Submit an edit with two images."""
    files = {"image": file_of(9), "mask": mask_of()}
    return await client.post(EDITS, data=BODY, files=files, headers=ASYNC)


async def text(client: httpx2.AsyncClient) -> httpx2.Response:
    """Submit a job without an image."""
    return await client.post(GENERATIONS, json=BODY, headers=ASYNC)


def inputs_in(cluster: Cluster) -> list[str]:
    """The images of requests that are kept."""
    return [file.name for file in cluster.folder.glob("*/*.input")]


async def test_images_of_a_request_go_with_the_jobs_end(cluster: Cluster) -> None:
    """When it is done, and when it is cancelled, whether it waits or runs; its results stay."""
    cluster.jobs = replace(QUICK, max_running=1)
    runner = held()
    async with cluster.gateway(runner) as gateway:
        done, runs, waits = [(await edit(gateway.client)).json()["id"] for _ in range(3)]
        await wait_until(lambda: bool(runner.waiting))
        assert len(inputs_in(cluster)) == 6
        await gateway.client.post(f"{JOBS}/{waits}/cancel")
        assert len(inputs_in(cluster)) == 4
        assert runner.gate is not None
        runner.gate.set()
        await until(gateway.client, done)
        await until(gateway.client, runs)
        await wait_until(lambda: not inputs_in(cluster))
        assert (await gateway.client.get(f"{JOBS}/{done}/result")).status_code == 200


def test_what_a_foreign_protocol_keeps_beside_a_job_stays() -> None:
    """A prompt's graph is in its history; only what the job reads goes, and both are counted."""
    body = EditRequest.model_validate({"prompt": "a"})
    stored = Submission(EDITS, body, {"image": b"image", "mask": b"mask", "graph": b"the graph"}).store()
    gone = {hashlib.sha256(content).hexdigest() for content in (b"image", b"mask")}
    assert passing_inputs(stored.values) == gone
    assert size_of(stored) == JobSize(passing=9, kept=9)
    same = Submission(EDITS, body, {"image": b"one", "graph": b"one"}).store()
    assert (passing_inputs(same.values), size_of(same)) == (frozenset(), JobSize(kept=3))


async def test_results_beyond_a_tenants_bytes_are_refused_until_jobs_are_deleted(cluster: Cluster) -> None:
    """The error has the numbers and what to do, and nothing is left of what was refused."""
    cluster.jobs = replace(QUICK, max_stored_bytes=100)
    async with cluster.gateway() as gateway:
        first = (await text(gateway.client)).json()["id"]
        await until(gateway.client, first)
        folders = {each.name for each in cluster.folder.glob("job_*")}
        for submit in (text, edit):
            refused = await submit(gateway.client)
            assert error_of(refused)[:2] == (429, "storage_full")
            assert int(refused.headers["retry-after"]) > 0
            assert "100 is the most: delete jobs" in refused.json()["error"]["message"]
        assert {each.name for each in cluster.folder.glob("job_*")} == folders
        await gateway.client.delete(f"{JOBS}/{first}")
        assert (await text(gateway.client)).status_code == 202


async def test_images_that_are_too_many_bytes_are_refused(cluster: Cluster) -> None:
    """When their size is known, though nothing was kept before; their files go at once."""
    cluster.jobs = replace(QUICK, max_stored_bytes=100)
    async with cluster.gateway() as gateway:
        assert error_of(await edit(gateway.client))[:2] == (429, "storage_full")
        assert inputs_in(cluster) == []


@given(
    st.builds(TenantLimits, queued=st.none() | st.integers(1, 9), stored_bytes=st.none() | st.integers(0, 9)),
    st.builds(Room, st.integers(1, 9), st.integers(0, 9)),
)
def test_a_tenants_own_bounds_come_before_those_of_all(own: TenantLimits, usual: Room) -> None:
    """Each for itself; where nothing is said of one, and for other tenants, the usual one holds."""
    limiter = TenantLimiter(LimitSettings(tenants={"a": own}), lambda: 0.0)
    room = limiter.room("a", usual)
    assert room.open_jobs == (usual.open_jobs if own.queued is None else own.queued)
    assert room.stored_bytes == (usual.stored_bytes if own.stored_bytes is None else own.stored_bytes)
    assert limiter.room("b", usual) == usual


async def test_a_tenant_has_bytes_of_its_own(cluster: Cluster) -> None:
    """One that may keep less is refused with its own number, one that may keep more is not; others have the usual."""
    keys = [ApiKey(hashlib.sha256(name.encode()).hexdigest(), name, is_admin=False) for name in ("less", "more", "b")]
    own = {"less": TenantLimits(stored_bytes=100), "more": TenantLimits(stored_bytes=10**9)}
    cluster.settings = replace(cluster.settings, keys=tuple(keys), limits=LimitSettings(tenants=own))
    cluster.jobs = replace(QUICK, max_stored_bytes=50)
    async with cluster.gateway() as gateway:
        for name, most in (("less", "100"), ("more", None), ("b", "50")):
            gateway.client.headers["authorization"] = f"Bearer {name}"
            await until(gateway.client, (await text(gateway.client)).json()["id"])
            again = await text(gateway.client)
            assert again.status_code == (202 if most is None else 429)
            assert most is None or f"and {most} is the most" in again.json()["error"]["message"]


async def test_submissions_at_once_are_no_more_than_may_be_open(cluster: Cluster) -> None:
    """Each is counted as it is stored, not when its images are still to be decoded."""
    cluster.jobs = replace(QUICK, max_queued=2)
    async with cluster.gateway(held()) as gateway:
        answers = await asyncio.gather(*(edit(gateway.client) for _ in range(6)))
        assert sorted(answer.status_code for answer in answers) == [202, 202, 429, 429, 429, 429]
        assert {error_of(answer)[1] for answer in answers if answer.status_code == 429} == {"queue_full"}
        assert len(inputs_in(cluster)) == 4


async def test_no_image_is_decoded_without_a_place(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job without one may wait in the store all the same, and a place is free again when its holder ends."""
    cluster.settings = GatewaySettings("lego-tiny", max_pending_jobs=1)
    runner = held()
    async with cluster.gateway(runner) as gateway:
        first = (await text(gateway.client)).json()["id"]
        await wait_until(lambda: bool(runner.waiting))
        with monkeypatch.context() as patch:
            patch.delattr(submissions, "prepare_edit")
            assert error_of(await edit(gateway.client))[:2] == (429, "over_capacity")
        assert (await text(gateway.client)).status_code == 202
        assert runner.gate is not None
        runner.gate.set()
        await until(gateway.client, first)
        async with asyncio.timeout(60):
            while (await edit(gateway.client)).status_code != 202:
                await asyncio.sleep(0.02)


async def test_a_tenant_that_queues_much_keeps_nobody_waiting(cluster: Cluster) -> None:
    """Not even at the highest priority: who sends a request with a key is answered after one of its jobs."""
    keys = tuple(ApiKey(hashlib.sha256(name.encode()).hexdigest(), name, is_admin=False) for name in ("many", "one"))
    cluster.settings = replace(cluster.settings, keys=keys)
    cluster.jobs = replace(QUICK, max_running=1)
    runner = held()
    async with cluster.gateway(runner, token="many") as gateway:
        job = {"workflow": "lego-tiny", "inputs": {"prompt": "many"}, "priority": 10}
        for _ in range(20):
            assert (await gateway.client.post(JOBS, json=job)).status_code == 202
        own = {"authorization": "Bearer one", "idempotency-key": "k"}
        asked = asyncio.ensure_future(gateway.client.post(GENERATIONS, json={"prompt": "one"}, headers=own))
        store = gateway.app.state.jobs.store
        async with asyncio.timeout(60):
            while not (await store.held("one")).open_jobs:
                await asyncio.sleep(0.01)
        assert runner.gate is not None
        runner.gate.set()
        assert (await asked).status_code == 200
        assert [run.inputs["prompt"] for run in runner.jobs].index("one") <= 2
