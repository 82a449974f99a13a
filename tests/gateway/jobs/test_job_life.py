"""What becomes of durable jobs over HTTP: lists, failures, order, bounds, deadlines, tenants."""

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from lego_serve.core.durable_jobs.record import JobStatus
from lego_serve.errors import NodeError, NodeUnavailable, RequestError, StoreUnavailable
from lego_serve.gateway.jobs import service, submission
from lego_serve.gateway.jobs.watching import Watchers
from lego_serve.gateway.settings import ApiKey, GatewaySettings
from tests.support.gateway.client import error_of, file_of, mask_of
from tests.support.gateway.durable import QUICK, Cluster, until, wait_until
from tests.support.gateway.runner import FakeRunner

IMAGES, JOBS = "/v1/images/generations", "/v1/jobs"
ASYNC = {"prefer": "respond-async"}
BODY = {"prompt": "a red circle", "size": "96x128", "n": 2}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """One server's store, without keys."""
    return Cluster(tmp_path / "jobs", GatewaySettings("lego-tiny", max_body_bytes=2_000_000))


async def test_lists_are_read_page_by_page(cluster: Cluster) -> None:
    """Newest first or oldest first, from an id on, by state; a wrong query names its field."""
    async with cluster.gateway() as gateway:
        ids = []
        for _ in range(5):
            ids.append((await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json()["id"])
        for job_id in ids:
            await until(gateway.client, job_id)
        page = (await gateway.client.get(JOBS, params={"limit": 2})).json()
        assert ([job["id"] for job in page["data"]], page["has_more"]) == (ids[:2:-1], True)
        rest = (await gateway.client.get(JOBS, params={"limit": 9, "after": page["last_id"]})).json()
        assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (ids[2::-1], False)
        ascending = (await gateway.client.get(JOBS, params={"order": "asc", "status": "completed"})).json()
        assert [job["id"] for job in ascending["data"]] == ids
        assert (await gateway.client.get(JOBS, params={"status": "failed"})).json()["data"] == []
        for query, name in (({"limit": 0}, "limit"), ({"status": "done"}, "status"), ({"order": "up"}, "order")):
            assert error_of(await gateway.client.get(JOBS, params=query))[::2] == (400, name)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RequestError("`prompt` has 60 tokens.", param="prompt", code="prompt_too_long"), 400, "prompt_too_long"),
        (NodeError("The node failed."), 500, "node_failed"),
    ],
)
async def test_a_failed_jobs_result_is_the_error_that_a_request_would_have_met(
    cluster: Cluster, error, status, code
) -> None:
    """With its status; the job shows it too."""
    runner = FakeRunner()
    runner.error = error
    async with cluster.gateway(runner) as gateway:
        job = (await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json()
        ended = await until(gateway.client, job["id"])
        assert (ended["status"], ended["error"]["code"]) == ("failed", code)  # type: ignore[index]
        assert error_of(await gateway.client.get(f"{JOBS}/{job['id']}/result")) == (status, code, error.param)


async def test_a_job_outlives_nodes_that_cannot_be_reached(cluster: Cluster) -> None:
    """It goes round again until they can be."""
    runner = FakeRunner()
    runner.error = NodeUnavailable("Not now.")
    runner.error.retry_after_s = 0.05
    async with cluster.gateway(runner) as gateway:
        job = (await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json()
        await wait_until(lambda: len(runner.jobs) >= 3)
        runner.error = None
        ended = await until(gateway.client, job["id"])
        assert ended["status"] == "completed"
        assert ended["attempt"] >= 3  # type: ignore[operator]


async def test_jobs_are_claimed_by_priority_where_more_wait_than_run(cluster: Cluster) -> None:
    """A place is all there is here: the more urgent of those that wait is next, and each says how many are before."""
    cluster.jobs = replace(QUICK, max_running=1)
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    async with cluster.gateway(runner) as gateway:
        ids = {}
        for priority in (0, -5, 5, 1):
            body = {"workflow": "lego-tiny", "inputs": {"prompt": f"{priority}"}, "priority": priority}
            ids[priority] = (await gateway.client.post(JOBS, json=body)).json()["id"]
            await wait_until(lambda: bool(runner.waiting))
        shown = {priority: (await gateway.client.get(f"{JOBS}/{ids[priority]}")).json() for priority in ids}
        assert {priority: job["position"] for priority, job in shown.items()} == {0: None, 5: 0, 1: 1, -5: 2}
        runner.gate.set()
        for job_id in ids.values():
            await until(gateway.client, job_id)
        assert [job.inputs["prompt"] for job in runner.jobs] == ["0", "5", "1", "-5"]


async def test_a_tenant_may_have_so_many_jobs_open(cluster: Cluster) -> None:
    """One more is refused until one has ended."""
    cluster.jobs = replace(QUICK, max_queued=2)
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    async with cluster.gateway(runner) as gateway:
        first, _ = [(await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json() for _ in range(2)]
        full = await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)
        assert error_of(full)[:2] == (429, "queue_full")
        assert int(full.headers["retry-after"]) > 0
        await gateway.client.post(f"{JOBS}/{first['id']}/cancel")
        assert (await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).status_code == 202


async def test_a_deadline_ends_a_job_that_waits(cluster: Cluster) -> None:
    """It expires, in the queue too, and its result is 504."""
    cluster.jobs = replace(QUICK, max_running=1)
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    async with cluster.gateway(runner) as gateway:
        await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)
        job = (await gateway.client.post(IMAGES, json=BODY | {"deadline_ms": 50}, headers=ASYNC)).json()
        assert (await until(gateway.client, job["id"]))["status"] == "expired"
        assert error_of(await gateway.client.get(f"{JOBS}/{job['id']}/result"))[:2] == (504, "deadline_exceeded")


async def test_a_claimed_jobs_images_are_decoded_in_its_place(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is none it goes round again, and it is decoded but once, when another accepted it."""
    decoded, runner = list[str](), FakeRunner()
    prepare_edit, runner.gate = submission.prepare_edit, asyncio.Event()

    async def prepare(context, caller, form, **more):
        decoded.append(caller.tenant)
        return await prepare_edit(context, caller, form, **more)

    monkeypatch.setattr(submission, "prepare_edit", prepare)
    cluster.settings = replace(cluster.settings, max_pending_jobs=1)
    async with cluster.gateway(runner) as gateway, cluster.gateway(jobs=replace(QUICK, max_running=0)) as other:
        waiting = asyncio.ensure_future(gateway.client.post("/v1/images/generations", json={"prompt": "a"}))
        await wait_until(lambda: bool(runner.waiting))
        job = await other.client.post(
            "/v1/images/edits",
            data={"prompt": "a"},
            files={"image": file_of(), "mask": mask_of()},
            headers={"prefer": "respond-async"},
        )
        assert job.status_code == 202, job.text
        await until(gateway.client, job.json()["id"], "in_progress")
        await asyncio.sleep(0.1)
        assert len(decoded) == 1
        runner.gate.set()
        assert (await waiting).status_code == 200
        await until(gateway.client, job.json()["id"], "completed")
        assert len(decoded) == 2


async def test_jobs_of_one_tenant_are_nothing_to_another(cluster: Cluster) -> None:
    """Read, watched, cancelled, deleted or listed with another's key there is none."""
    keys = tuple(ApiKey(hashlib.sha256(t.encode()).hexdigest(), t, is_admin=False) for t in ("alice", "bob"))
    cluster.settings = replace(cluster.settings, keys=keys)
    async with cluster.gateway(token="alice") as gateway:
        job = (await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json()
        ended = await until(gateway.client, job["id"])
        bob = {"authorization": "Bearer bob"}
        for method, path in (
            ("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/result"),
            ("GET", "/images/0"),
        ):  # fmt: skip
            answer = await gateway.client.request(method, f"{JOBS}/{job['id']}{path}", headers=bob)
            assert error_of(answer)[:2] == (404, "job_not_found")
        assert (await gateway.client.get(JOBS, headers=bob)).json()["data"] == []
        link = ended["result"]["data"][0]["url"]  # type: ignore[index]
        assert (await gateway.client.get(link, headers={"authorization": ""})).status_code == 200
        forged = link[:-1] + ("0" if link[-1] != "0" else "1")
        assert error_of(await gateway.client.get(forged))[:2] == (401, "invalid_signature")


async def test_without_a_store_there_are_no_jobs(client) -> None:
    """Each way to one is refused in words; requests without a key or a preference go on as ever."""
    for answer in (
        await client.get(JOBS),
        await client.post(IMAGES, json=BODY, headers=ASYNC),
        await client.post(IMAGES, json=BODY, headers={"idempotency-key": "k"}),
    ):
        assert error_of(answer)[:2] == (503, "jobs_disabled")
        assert answer.headers["x-should-retry"] == "false"
    assert (await client.post(IMAGES, json=BODY)).status_code == 200


async def test_an_end_between_a_look_and_the_watch_is_told(cluster: Cluster) -> None:
    """Whoever holds a record that is old by now hears of the end at once, not of nothing."""
    async with cluster.gateway() as gateway:
        jobs = gateway.app.state.jobs
        job = (await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json()
        await until(gateway.client, job["id"])
        ended = await jobs.store.get(job["id"])
        old = replace(ended, status=JobStatus.IN_PROGRESS, version=2)
        events = [event async for event in jobs.watch(old)]
        assert events == [ended]


async def test_a_stream_of_events_outlives_a_store_that_is_away(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client hears pings meanwhile, and the end when that is written."""
    monkeypatch.setattr(service, "PING_S", 0.05)
    runner = FakeRunner()
    runner.gate = asyncio.Event()

    async def away(*words: object) -> None:
        raise StoreUnavailable("The job store does not answer; try again later.")

    async with cluster.gateway(runner) as gateway:
        job = (await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json()
        await wait_until(lambda: bool(runner.waiting))
        jobs = gateway.app.state.jobs
        listening = asyncio.ensure_future(gateway.client.get(f"{JOBS}/{job['id']}/events"))
        await wait_until(lambda: jobs.is_watched(job["id"]))
        with monkeypatch.context() as patch:
            for name in ("get", "write", "claim", "beat", "owned_ids", "lapsed_owners", "wait_for_change"):
                patch.setattr(jobs.store, name, away)
            runner.gate.set()
            await wait_until(lambda: not runner.in_flight and jobs.worker.is_store_away)
            assert (await gateway.client.get(f"{JOBS}/{job['id']}")).status_code == 503
            await asyncio.sleep(0.3)
            assert not listening.done()
        events = (await listening).text
        assert ": ping" in events
        assert "event: job.completed" in events


async def test_a_stream_of_a_job_that_waits_does_not_break_off(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the store goes away before its place in the queue is read; one that cannot begin is refused with 503."""
    cluster.jobs = replace(QUICK, max_running=1)
    runner = FakeRunner()
    runner.gate = asyncio.Event()

    async def away(*words: object) -> None:
        raise StoreUnavailable("The job store does not answer; try again later.")

    async with cluster.gateway(runner) as gateway:
        jobs = gateway.app.state.jobs
        _, job = [(await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json() for _ in range(2)]
        monkeypatch.setattr(jobs.store, "position", away)
        listening = asyncio.ensure_future(gateway.client.get(f"{JOBS}/{job['id']}/events"))
        await wait_until(lambda: jobs.is_watched(job["id"]))
        runner.gate.set()
        events = (await listening).text
        assert '"position": null' in events.split("\n\n")[0]
        assert "event: job.completed" in events
        jobs._signer = None
        monkeypatch.setattr(jobs.store, "setting", away)
        assert error_of(await gateway.client.get(f"{JOBS}/{job['id']}/events"))[:2] == (503, "store_unavailable")


async def test_what_a_later_watcher_knows_is_news_to_an_earlier_one(cluster: Cluster) -> None:
    """The end that the later one has read itself reaches both, whoever would tell of it."""
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    async with cluster.gateway(runner) as gateway:
        jobs = gateway.app.state.jobs
        job = (await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json()
        known = await jobs.store.get(job["id"])
        watchers = Watchers()
        with watchers.watch(known) as earlier:
            ended = replace(known, status=JobStatus.CANCELLED, version=known.version + 1)
            with watchers.watch(ended):
                assert await earlier.next(timeout_s=60) == [ended]
                watchers.tell(ended)
                assert await earlier.next(timeout_s=0.01) == []
