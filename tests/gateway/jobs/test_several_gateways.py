"""Durable jobs over several gateways of one store: whichever dies, stops or sleeps, each job ends once."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.core.jobs.job import JobProgress
from lego_serve.core.jobs.progress import LaneCheckpoint
from lego_serve.errors import StoreUnavailable
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.jobstore.sweeping import release
from tests.support.gateway.client import error_of
from tests.support.gateway.durable import QUICK, Cluster, Gateway, until, wait_until
from tests.support.gateway.runner import FakeRunner

IMAGES, JOBS = "/v1/images/generations", "/v1/jobs"
ASYNC = {"prefer": "respond-async"}
BODY = {"prompt": "a red circle"}
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


async def running(gateway: Gateway, *others: Gateway) -> str:
    """Submit a job, and return its id once it runs: here, or in another gateway where this one has just begun."""
    job = (await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).json()
    await wait_until(lambda: any(each.runner.waiting for each in (gateway, *others)))
    return str(job["id"])


async def test_a_gateway_that_stops_hands_its_jobs_over(cluster: Cluster) -> None:
    """At once, with the newest checkpoint, and nothing counts as a death; the other goes on from there."""
    first_runner = held()
    async with cluster.gateway(first_runner) as first:
        job_id = await running(first)
        assert first_runner.checkpoints is not None
        first_runner.checkpoints.keep("latents", 0, LaneCheckpoint(15, b"fifteen"))
        async with cluster.gateway() as second:
            first.draining.begin()
            ended = await until(second.client, job_id)
            assert (ended["status"], ended["attempt"]) == ("completed", 2)
            assert second.runner.checkpoints.kept("latents") == {0: LaneCheckpoint(15, b"fifteen")}
            assert first.runner.jobs[0].inputs == second.runner.jobs[0].inputs  # the seed too
    assert not list(cluster.folder.glob("*/*.ckpt"))


async def test_what_a_gateway_claims_as_it_begins_to_stop_goes_to_others(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to its last claim comes when all else was given back; nobody waits for it to be gone."""
    cluster.jobs = ONE
    claimed, go_on = asyncio.Event(), asyncio.Event()
    async with cluster.gateway(held()) as first:
        await running(first)
        claim = first.app.state.jobs.store.claim

        async def claim_late(owner: str, count: int, weights: Mapping[str, float]) -> Sequence[JobRecord]:
            records: Sequence[JobRecord] = await claim(owner, count, weights)
            if records:
                claimed.set()
                await go_on.wait()
            return records

        monkeypatch.setattr(first.app.state.jobs.store, "claim", claim_late)
        job_id = (await first.client.post(IMAGES, json=BODY, headers=ASYNC)).json()["id"]
        assert first.runner.gate is not None
        first.runner.gate.set()
        await claimed.wait()
        first.draining.begin()
        await asyncio.sleep(0)
        go_on.set()
        async with asyncio.timeout(60), cluster.gateway() as second:
            ended = await until(second.client, job_id)
        assert (ended["status"], len(first.runner.jobs)) == ("completed", 1)


async def test_a_job_that_ends_as_its_gateway_stops_leaves_no_checkpoint(cluster: Cluster) -> None:
    """The stop comes between the end that was written and what is left to do after one."""
    async with cluster.gateway(held()) as gateway:
        job_id = await running(gateway)
        attempt = gateway.app.state.jobs.worker.attempt(job_id)
        assert gateway.runner.gate is not None
        gateway.runner.gate.set()
        await until(gateway.client, job_id)
        attempt._checkpoints.keep("latents", 0, LaneCheckpoint(15, b"fifteen"))
        await attempt.give_back()
        assert not list(cluster.folder.glob("*/*.ckpt"))


@pytest.mark.parametrize("how", ["cancelled here", "cancelled elsewhere", "expired"])
async def test_a_job_that_is_ended_by_others_leaves_no_checkpoint(cluster: Cluster, how: str) -> None:
    """As one that ends by itself: its files but the request's are gone long before its record is."""
    ahead_s = 0.0
    cluster.wall = lambda: time.time() + ahead_s
    async with cluster.gateway(held()) as first, cluster.gateway(held()) as second:
        body = BODY | ({"deadline_ms": 30_000} if how == "expired" else {})
        job_id = (await first.client.post(IMAGES, json=body, headers=ASYNC)).json()["id"]
        await wait_until(lambda: bool(first.runner.waiting or second.runner.waiting))
        here, other = (first, second) if first.runner.waiting else (second, first)
        attempt = here.app.state.jobs.worker.attempt(job_id)
        here.runner.checkpoints.keep("latents", 0, LaneCheckpoint(15, b"fifteen"))
        await attempt._checkpoints.store(attempt._parts.checkpoints.write)
        assert (cluster.folder / job_id / "1.ckpt").exists()
        if how == "expired":
            ahead_s = 31.0
        else:
            await (here if how == "cancelled here" else other).client.post(f"{JOBS}/{job_id}/cancel")
        assert (await until(here.client, job_id))["status"] == how.split()[0]
        await wait_until(lambda: not here.runner.in_flight and not list(cluster.folder.glob("*/*.ckpt")))


async def test_a_job_is_written_down_by_time_and_gone_on_with_elsewhere(cluster: Cluster) -> None:
    """What a gateway that dies has written is where another begins; the steps since are all that is lost."""
    first_runner = held()
    cluster.jobs = ONE
    async with cluster.gateway(first_runner) as first:
        job_id = await running(first)
        attempt = first.app.state.jobs.worker.attempt(job_id)
        first_runner.checkpoints.keep("latents", 0, LaneCheckpoint(10, b"ten"))

        def checkpoint_is_written() -> bool:
            attempt.note(JobProgress(0, 10, 100, 60.0))  # the first may come before a checkpoint is due
            return (cluster.folder / job_id / "1.ckpt").exists()

        await wait_until(checkpoint_is_written)
        async with cluster.gateway() as second:
            await release(second.app.state.jobs.store, "gateway 1")  # as the supervisor does
            ended = await until(second.client, job_id)
            assert (ended["status"], ended["attempt"]) == ("completed", 2)
            assert second.runner.checkpoints.kept("latents") == {0: LaneCheckpoint(10, b"ten")}
            await wait_until(lambda: not first.runner.in_flight)  # whoever was given up stops at its next write


async def test_whoever_was_taken_for_dead_writes_nothing_any_more(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sleeps, wakes and ends its job late: the record and the image are those of the attempt that counts."""
    first_runner = held()
    cluster.jobs = replace(ONE, progress_s=60.0)
    async with cluster.gateway(first_runner) as first:
        job_id = await running(first)

        async def sleep(timeout_s: float) -> bool:
            await asyncio.sleep(60)
            return False

        monkeypatch.setattr(first.app.state.jobs.store, "wait_for_change", sleep)
        await asyncio.sleep(0.3)  # what it was waiting for before
        async with cluster.gateway() as second:
            await release(second.app.state.jobs.store, "gateway 1")
            before = await until(second.client, job_id)
            first_runner.gate.set()
            await asyncio.sleep(0.3)
            assert (await second.client.get(f"{JOBS}/{job_id}")).json() == before
            assert (await second.client.get(f"{JOBS}/{job_id}/images/0")).status_code == 200


async def test_a_job_that_kills_whoever_runs_it_ends_at_the_third_death(cluster: Cluster) -> None:
    """It does not go round for ever."""
    async with cluster.gateway(held()) as gateway:
        job_id = await running(gateway)
        while (ended := await until(gateway.client, job_id, "in_progress", "failed"))["status"] != "failed":
            # One that lives may take the job again before this is done, which is another death then.
            await release(gateway.app.state.jobs.store, "gateway 1")
        assert (ended["attempt"], ended["error"]["code"]) == (3, "attempts_exhausted")  # type: ignore[index]


async def test_a_job_is_watched_from_any_gateway(cluster: Cluster) -> None:
    """Its end is told where it does not run, too; so is a cancel, which stops it where it does."""
    async with cluster.gateway(held()) as first, cluster.gateway(held()) as second:
        job_id = await running(first, second)
        other = second if first.app.state.jobs.worker.attempt(job_id) else first
        listening = asyncio.ensure_future(other.client.get(f"{JOBS}/{job_id}/events"))
        await wait_until(lambda: other.app.state.jobs.is_watched(job_id))
        cancelled = await other.client.post(f"{JOBS}/{job_id}/cancel")
        assert cancelled.json()["status"] == "cancelled"
        assert "event: job.cancelled" in (await listening).text
        await wait_until(lambda: not first.runner.in_flight + second.runner.in_flight)


async def test_who_watches_a_job_that_is_deleted_elsewhere_hears_of_its_end(cluster: Cluster) -> None:
    """Its record is gone before anybody could look; who comes between the two is told as well."""
    async with cluster.gateway(held()) as first, cluster.gateway(held()) as second:
        job_id = await running(first, second)
        here, other = (first, second) if first.app.state.jobs.worker.attempt(job_id) else (second, first)
        jobs, known = other.app.state.jobs, await other.app.state.jobs.store.get(job_id)
        listening = asyncio.ensure_future(other.client.get(f"{JOBS}/{job_id}/events"))
        await wait_until(lambda: jobs.is_watched(job_id))
        assert (await here.client.delete(f"{JOBS}/{job_id}")).status_code == 200
        async with asyncio.timeout(60):
            assert "event: job.cancelled" in (await listening).text
            assert [event.status async for event in jobs.watch(known)] == ["cancelled"]
        await wait_until(lambda: not here.runner.in_flight)


async def test_a_repeated_request_is_answered_once(cluster: Cluster) -> None:
    """While the first runs the second waits for its images; after it they are there; another request is refused."""
    runner, another = held(), held()
    key = {"idempotency-key": "order 17"}
    async with cluster.gateway(runner) as gateway, cluster.gateway(another) as other:
        first = asyncio.ensure_future(gateway.client.post(IMAGES, json=BODY, headers=key))
        await wait_until(lambda: bool(runner.waiting or another.waiting))
        second = asyncio.ensure_future(other.client.post(IMAGES, json=BODY, headers=key))
        await asyncio.sleep(0.1)
        for each in (runner, another):
            each.gate.set()
        answers = [await first, await second, await gateway.client.post(IMAGES, json=BODY, headers=key)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true", "true"]
        assert answers[0].json() == answers[1].json() == answers[2].json()
        assert len(runner.jobs) + len(another.jobs) == 1
        reused = await gateway.client.post(IMAGES, json={"prompt": "another"}, headers=key)
        assert error_of(reused)[:2] == (422, "idempotency_key_reused")
        assert reused.headers["x-should-retry"] == "false"
        accepted = await gateway.client.post(IMAGES, json=BODY, headers=key | ASYNC)
        assert (accepted.status_code, accepted.headers["idempotency-replayed"]) == (200, "true")  # it has ended


async def test_a_request_that_is_repeated_after_its_client_left_finds_its_job(cluster: Cluster) -> None:
    """The first connection breaks; the job goes on, and the second gets its images."""
    runner = held()
    key = {"idempotency-key": "k"}
    async with cluster.gateway(runner) as gateway:
        first = asyncio.ensure_future(gateway.client.post(IMAGES, json=BODY, headers=key))
        await wait_until(lambda: bool(runner.waiting))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        runner.gate.set()
        again = await gateway.client.post(IMAGES, json=BODY, headers=key)
        assert (again.status_code, len(runner.jobs)) == (200, 1)


@pytest.mark.parametrize("key", ["", "k" * 256, "schlüssel"])
async def test_a_key_that_is_none_is_refused(cluster: Cluster, key: str) -> None:
    """Nothing is run for it."""
    async with cluster.gateway() as gateway:
        answer = await gateway.client.post(IMAGES, json=BODY, headers={"idempotency-key": key.encode("latin-1")})
        assert error_of(answer)[:2] == (400, "invalid_idempotency_key")
        assert gateway.runner.jobs == []


async def test_while_the_store_is_away_requests_that_need_none_are_answered(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submissions get 503 and when to try again; a job that runs ends as soon as the store is back."""
    runner = held()
    async with cluster.gateway(runner) as gateway:
        job_id = await running(gateway)
        store = gateway.app.state.jobs.store

        async def away(*words: object) -> None:
            raise StoreUnavailable("The job store does not answer; try again later.")

        with monkeypatch.context() as patch:
            for name in ("put", "find", "get", "write", "claim", "beat", "owned", "held", "page"):
                patch.setattr(store, name, away)
            runner.gate.set()
            for answer in (
                await gateway.client.post(IMAGES, json=BODY, headers=ASYNC),
                await gateway.client.post(IMAGES, json=BODY, headers={"idempotency-key": "k"}),
                await gateway.client.get(f"{JOBS}/{job_id}"),
                await gateway.client.get(JOBS),
            ):
                assert error_of(answer)[:2] == (503, "store_unavailable")
                assert answer.headers["retry-after"]
            assert (await gateway.client.post(IMAGES, json=BODY)).status_code == 200
        assert (await until(gateway.client, job_id))["status"] == "completed"
