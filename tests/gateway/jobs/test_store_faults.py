"""A store that is silent, slow, read only, restarted or full, as a gateway's clients see it."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import httpx2
import pytest
from redis import Redis

from lego_serve.gateway.settings import GatewaySettings
from lego_serve.jobstore.redis_client import connect
from lego_serve.jobstore.redis_store import RedisJobStore
from tests.support.gateway.client import error_of
from tests.support.gateway.durable import LEASE_S, Cluster, Gateway, wait_until
from tests.support.gateway.runner import FakeRunner
from tests.support.jobstore.redis_proxy import RedisProxy, proxy_of
from tests.support.jobstore.redis_server import RedisServer

IMAGES, JOBS = "/v1/images/generations", "/v1/jobs"
ASYNC = {"prefer": "respond-async"}
BODY = {"prompt": "a red circle"}
SOON_S = 3.0  # a few of the client's timeouts, on a busy machine
DISK_BYTES = 8 << 20
BUSY_S = 60.0


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[RedisProxy]:
    """A way to an empty Redis that may be cut."""
    redis_server.flush()
    async with proxy_of(redis_server) as proxy:
        yield proxy


@pytest.fixture
def cluster(tmp_path: Path, proxy: RedisProxy) -> Cluster:
    """Gateways whose store is behind the proxy."""
    return Cluster(
        tmp_path / "jobs",
        GatewaySettings("lego-tiny"),
        open_store=lambda: RedisJobStore(connect(proxy.url), LEASE_S),
    )


@asynccontextmanager
async def with_a_job_that_runs(cluster: Cluster) -> AsyncIterator[tuple[Gateway, str]]:
    """A gateway, and a job in it that ends when the runner's gate opens."""
    runner = FakeRunner()
    runner.gate = asyncio.Event()
    async with cluster.gateway(runner) as gateway:
        job_id = await accepted(gateway)
        await wait_until(lambda: bool(runner.waiting))
        yield gateway, job_id


async def accepted(gateway: Gateway) -> str:
    """The id of a job that is taken: whoever is told to come again does, for a server that is held up may be late."""
    async with asyncio.timeout(BUSY_S):
        while (answer := await gateway.client.post(IMAGES, json=BODY, headers=ASYNC)).status_code == 503:
            await asyncio.sleep(0.05)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def now() -> float:
    """Seconds in which this process was let run."""
    return asyncio.get_running_loop().time()


async def refused_soon(client: httpx2.AsyncClient) -> None:
    """Submissions are refused with when to try again, in bounded time, however often one asks."""
    for headers in (ASYNC, {"idempotency-key": "k"}, ASYNC, ASYNC, {"idempotency-key": "k"}):
        started = now()
        answer = await client.post(IMAGES, json=BODY, headers=headers)
        assert now() - started < SOON_S
        assert error_of(answer)[:2] == (503, "store_unavailable")
        assert int(answer.headers["retry-after"]) > 0


async def answered_soon(client: httpx2.AsyncClient) -> None:
    """A request that needs no store is answered as ever."""
    started = now()
    assert (await client.post(IMAGES, json=BODY)).status_code == 200
    assert now() - started < SOON_S


def open_gate(gateway: Gateway) -> None:
    """Let what runs end."""
    assert gateway.runner.gate is not None
    gateway.runner.gate.set()


async def test_a_silent_store_costs_submissions_and_nothing_else(cluster: Cluster, proxy: RedisProxy) -> None:
    """Its connections are open and nothing comes; the job that runs ends as soon as it speaks again."""
    async with with_a_job_that_runs(cluster) as (gateway, job_id):
        await until_ready(gateway)
        proxy.forwarding.clear()
        await refused_soon(gateway.client)
        open_gate(gateway)
        await answered_soon(gateway.client)
        while await readiness(gateway) != {"status": "ok", "degraded": ["job_store"]}:
            await asyncio.sleep(0.05)
        proxy.forwarding.set()
        assert (await ended(gateway, job_id))["status"] == "completed"
        await accepted_again(gateway)
        await until_ready(gateway)


async def until_ready(gateway: Gateway) -> None:
    """Until it serves everything: a gateway that found no store looks again after a while."""
    async with asyncio.timeout(BUSY_S):
        while await readiness(gateway) != {"status": "ok"}:
            await asyncio.sleep(0.05)


async def readiness(gateway: Gateway) -> dict[str, object]:
    """What a load balancer is told: the gateway serves, perhaps not everything."""
    answer = await gateway.client.get("/health/ready")
    assert answer.status_code == 200
    said: dict[str, object] = answer.json()
    return said


async def ended(gateway: Gateway, job_id: str) -> dict[str, object]:
    """The end of a job, once the store can be asked."""
    async with asyncio.timeout(BUSY_S):
        while True:
            answer = await gateway.client.get(f"{JOBS}/{job_id}")
            job: dict[str, object] = answer.json()
            if answer.status_code != 503 and job["status"] not in ("queued", "in_progress"):
                return job
            await asyncio.sleep(0.05)


async def accepted_again(gateway: Gateway) -> None:
    """A submission is taken, and its job ends."""
    assert (await ended(gateway, await accepted(gateway)))["status"] == "completed"


async def test_a_slow_store_is_waited_for_within_bounds(cluster: Cluster, proxy: RedisProxy) -> None:
    """What answers in time serves; what takes longer than the client waits counts as away."""
    async with with_a_job_that_runs(cluster) as (gateway, job_id):
        proxy.delay_s = 0.03
        await accepted(gateway)
        proxy.delay_s = 1.0
        await refused_soon(gateway.client)
        open_gate(gateway)
        await answered_soon(gateway.client)
        proxy.delay_s = 0.0
        assert (await ended(gateway, job_id))["status"] == "completed"


async def test_a_store_that_is_read_only_takes_nothing(cluster: Cluster, redis_server: RedisServer) -> None:
    """As a Redis that has become a replica; jobs can still be read."""
    async with with_a_job_that_runs(cluster) as (gateway, job_id):
        with Redis(unix_socket_path=str(redis_server.socket)) as admin:
            admin.replicaof("127.0.0.1", "1")
            try:
                await refused_soon(gateway.client)
                open_gate(gateway)
                await answered_soon(gateway.client)
            finally:
                admin.replicaof("no", "one")
        assert (await ended(gateway, job_id))["status"] == "completed"
        await accepted_again(gateway)


async def test_a_store_that_is_restarted_keeps_what_was_accepted(cluster: Cluster, redis_server: RedisServer) -> None:
    """Killed while a job runs and another waits."""
    async with with_a_job_that_runs(cluster) as (gateway, job_id):
        write_always(redis_server)
        more = await accepted(gateway)
        redis_server.stop()
        await refused_soon(gateway.client)
        open_gate(gateway)
        await answered_soon(gateway.client)
        redis_server.start()
        assert [(await ended(gateway, each))["status"] for each in (job_id, more)] == ["completed"] * 2
        await accepted_again(gateway)


def write_always(redis_server: RedisServer) -> None:
    """Have Redis write before it answers, until it is started again: `everysec` may answer before."""
    with Redis(unix_socket_path=str(redis_server.socket)) as admin:
        admin.config_set("appendfsync", "always")


async def test_a_store_that_is_restarted_under_load_loses_nothing_that_was_accepted(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Two gateways, six clients that submit all the time, and three restarts: refusals are 503, and all else ends.

    Its client is patient, so that a busy machine's disk is not taken for a server that is away.
    """
    redis_server.flush()
    store = partial(connect, redis_server.url, BUSY_S)
    cluster = Cluster(
        tmp_path / "jobs", GatewaySettings("lego-tiny"), open_store=lambda: RedisJobStore(store(), LEASE_S)
    )
    accepted: list[str] = []
    refused: list[int] = []
    goes_on, stop = asyncio.Event(), False
    goes_on.set()

    async def submit(client: httpx2.AsyncClient) -> None:
        while not stop:
            await goes_on.wait()
            answer = await client.post(IMAGES, json=BODY, headers=ASYNC)
            if answer.status_code == 202:
                accepted.append(answer.json()["id"])
            else:
                assert error_of(answer)[:2] == (503, "store_unavailable")
                refused.append(len(accepted))
                await asyncio.sleep(0.02)

    async with cluster.gateway() as first, cluster.gateway() as second:
        write_always(redis_server)
        clients = [asyncio.create_task(submit(each.client)) for each in (first, second) * 3]
        for _ in range(3):
            more, seen = len(accepted) + 12, len(refused)
            await wait_until(lambda more=more: len(accepted) >= more, BUSY_S)  # type: ignore[misc]
            redis_server.stop()
            await wait_until(lambda seen=seen: len(refused) > seen, BUSY_S)  # type: ignore[misc]
            goes_on.clear()  # until Redis writes before it answers, which it forgets
            redis_server.start()
            write_always(redis_server)
            goes_on.set()
        stop = True
        await asyncio.gather(*clients)
        await until_ready(first)
        await accepted_again(first)
        assert {(await ended(second, job_id))["status"] for job_id in accepted} == {"completed"}
    assert len(accepted) == len(set(accepted)) >= 36


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"needs a file system of its own, which root may mount: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


async def test_a_full_disk_refuses_submissions_and_jobs_that_run_end(small_disk: Path) -> None:
    """As failed at worst; with room again all is as before."""
    cluster = Cluster(small_disk / "jobs", GatewaySettings("lego-tiny"))
    async with with_a_job_that_runs(cluster) as (gateway, job_id):
        filler = small_disk / "filler"
        fill(filler)
        await refused_soon(gateway.client)
        open_gate(gateway)
        await answered_soon(gateway.client)
        filler.unlink()
        assert (await ended(gateway, job_id))["status"] in ("completed", "failed")
        await accepted_again(gateway)
