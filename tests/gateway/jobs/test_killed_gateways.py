"""Gateways that are killed or stand still under load: what was accepted ends, once, and is told of under one id."""

import asyncio
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from lego_serve.core.durable_jobs.record import JobRecord, JobStatus
from lego_serve.core.durable_jobs.store import MAX_PAGE, JobQuery
from lego_serve.gateway.jobs.service import images_of
from lego_serve.jobstore.sweeping import release
from tests.support.gateway.killable import LEASE_S, KillableGateway
from tests.support.jobstore.claimer import open_store
from tests.support.jobstore.redis_server import RedisServer
from tests.support.webhooks.receiver import Receiver, receiving

IMAGES, JOBS = "/v1/images/generations", "/v1/jobs"
GATEWAYS = 3
STOPPED_S = 1.6 * LEASE_S
STANDS_STILL = 0.25  # of the faults; the others are kills
SEEN_BY_ITS_SUPERVISOR = 0.5  # of the kills; the others are found when the lease lapses
SYNCHRONOUS_EVERY = 4  # so many requests, one waits for its image
ASK_S = 3.0  # a gateway that stands still is given up, and another asked
PATIENCE_S = 60.0
EXHAUSTED = "attempts_exhausted"
BODY = {"prompt": "a red circle", "size": "96x96"}


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where each store is that outlives a process."""
    if request.param == "sqlite":
        return str(tmp_path / "jobs.db")
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    return server.url


@dataclass
class Crowd:
    """The gateways of one store, a client of all of them, and what was accepted."""

    store: str
    folder: Path
    receiver: Receiver
    client: httpx2.AsyncClient
    chance: random.Random
    gateways: list[KillableGateway] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    accepted: dict[str, str] = field(default_factory=dict)  # the ids of jobs, by their keys
    answered: int = 0  # requests that waited for their image
    tries: int = 0
    waking: set[asyncio.Task[None]] = field(default_factory=set)

    def begin(self) -> KillableGateway:
        """Start one gateway."""
        return KillableGateway(self.store, self.folder, self.receiver.address)

    async def ask(self, method: str, path: str, **request: Any) -> httpx2.Response:
        """Ask one gateway after the other until one answers what counts; for 4xx there is no excuse."""
        limit = time.monotonic() + PATIENCE_S
        while True:
            self.tries += 1
            url = self.chance.choice(self.gateways).url
            try:
                answer = await self.client.request(method, url + path, **request)
            except httpx2.TransportError:
                answer = None
            if answer is not None and (answer.status_code < 500 or EXHAUSTED in answer.text):
                assert not 400 <= answer.status_code < 500, answer.text
                return answer
            assert time.monotonic() < limit, answer and answer.text
            await asyncio.sleep(0.02)

    async def submit(self, number: int) -> None:
        """Have one job accepted, or one image made, under a key that each try repeats."""
        key = {"idempotency-key": f"order {number}"}
        if number % SYNCHRONOUS_EVERY == 0:
            answer = await self.ask("POST", IMAGES, json=BODY | {"seed": number}, headers=key)
            assert EXHAUSTED in answer.text or answer.json()["data"][0]["seed"] == number
            self.answered += 1
            return
        webhook = {"url": f"http://{self.receiver.address}/hook"}
        body = {"endpoint": IMAGES, "body": BODY | {"seed": number}, "webhook": webhook}
        answer = await self.ask("POST", JOBS, json=body, headers=key)
        self.accepted[key["idempotency-key"]] = answer.json()["id"]

    async def harm(self) -> None:
        """Kill a gateway that serves and start another in its place, or let it stand still beyond its lease."""
        place = await self._serving()
        await asyncio.sleep(self.chance.uniform(0, 0.2))
        gateway = self.gateways[place]
        if self.chance.random() < STANDS_STILL:
            gateway.stop()
            self.faults["stood still"] += 1
            task = asyncio.ensure_future(self._wake_later(gateway))
            self.waking.add(task)
            return
        gateway.kill()
        self.gateways[place] = self.begin()
        self.faults["killed"] += 1
        if self.chance.random() < SEEN_BY_ITS_SUPERVISOR:
            store = open_store(self.store, PATIENCE_S)
            await release(store, gateway.owner)
            await store.close()

    async def _serving(self) -> int:
        """The place of a gateway that serves, once another does beside it: three deaths in a row end a job."""
        limit = time.monotonic() + PATIENCE_S
        while True:
            places = [place for place, gateway in enumerate(self.gateways) if await self._answers(gateway)]
            if len(places) > 1:
                return self.chance.choice(places)
            assert time.monotonic() < limit, "fewer than two gateways serve"
            await asyncio.sleep(0.02)

    async def _answers(self, gateway: KillableGateway) -> bool:
        try:
            await self.client.get(f"{gateway.url}/health/live", timeout=0.5)
        except httpx2.TransportError:
            return False
        return True

    async def _wake_later(self, gateway: KillableGateway) -> None:
        await asyncio.sleep(STOPPED_S)
        gateway.wake()


@contextmanager
def _killed_at_the_end(crowd: Crowd) -> Iterator[None]:
    crowd.gateways = [crowd.begin() for _ in range(GATEWAYS)]
    try:
        yield
    finally:
        for gateway in crowd.gateways:
            gateway.kill()


async def _survive(store: str, folder: Path, faults: int, jobs: int) -> None:
    """Submit while gateways die, and look at what there is when all have ended."""
    async with receiving() as receiver, httpx2.AsyncClient(timeout=ASK_S) as client:
        crowd = Crowd(store, folder, receiver, client, random.Random(faults))
        with _killed_at_the_end(crowd):
            await crowd.ask("GET", "/health/live")
            submitting = asyncio.ensure_future(_submit(crowd, jobs))
            for _ in range(faults):
                await crowd.harm()
            await submitting
            await asyncio.gather(*crowd.waking)
            records = await _when_all_ended(crowd, jobs)
            await _until_all_are_told(crowd)
            await asyncio.sleep(LEASE_S)
            assert await _records(crowd) == records  # whoever woke up late has changed nothing
            await _check(crowd, records)


async def _submit(crowd: Crowd, jobs: int) -> None:
    """Keep a few requests on their way at any time."""
    numbers = iter(range(jobs))

    async def some() -> None:
        for number in numbers:
            await crowd.submit(number)
            await asyncio.sleep(0.05)

    await asyncio.gather(*(some() for _ in range(4)))


async def _when_all_ended(crowd: Crowd, jobs: int) -> dict[str, JobRecord]:
    limit = time.monotonic() + PATIENCE_S
    while True:
        records = await _records(crowd)
        assert len(records) == jobs  # one for each key, however often it was repeated
        if all(record.status.has_ended for record in records.values()):
            return records
        assert time.monotonic() < limit, Counter(record.status for record in records.values())
        await asyncio.sleep(0.2)


async def _records(crowd: Crowd) -> dict[str, JobRecord]:
    records: list[JobRecord] = []
    store = open_store(crowd.store, PATIENCE_S)
    while True:
        after = records[-1].id if records else None
        page = await store.page(JobQuery("default", limit=MAX_PAGE, after=after, ascending=True))
        records += page.jobs
        if not page.has_more:
            await store.close()
            return {record.id: record for record in records}


async def _until_all_are_told(crowd: Crowd) -> None:
    limit = time.monotonic() + PATIENCE_S
    while len({delivery.headers["webhook-id"] for delivery in crowd.receiver.got}) < len(crowd.accepted):
        assert time.monotonic() < limit, f"{len(crowd.receiver.got)} messages of {len(crowd.accepted)}"
        await asyncio.sleep(0.1)


async def _check(crowd: Crowd, records: dict[str, JobRecord]) -> None:
    """Every key is one job with one end, its images and one message, whatever became of those who ran it."""
    assert len(set(crowd.accepted.values())) == len(crowd.accepted) == len(records) - crowd.answered
    exhausted = [record for record in records.values() if record.status is not JobStatus.COMPLETED]
    assert all(record.error is not None and record.error.code == EXHAUSTED for record in exhausted), exhausted
    assert len(exhausted) <= len(records) / 20
    for record in records.values():
        for index, image in enumerate(images_of(record)):
            file = await crowd.ask("GET", f"{JOBS}/{record.id}/images/{index}")
            assert hashlib.sha256(file.content).hexdigest() == image["sha256"]
    told: dict[str, set[tuple[str, bytes]]] = {}
    for delivery in crowd.receiver.got:
        data = json.loads(delivery.body)["data"]
        assert data["status"] == records[data["id"]].status.value
        told.setdefault(data["id"], set()).add((delivery.headers["webhook-id"], delivery.body))
    assert set(told) == set(crowd.accepted.values())
    assert all(len(messages) == 1 for messages in told.values())  # sent twice, perhaps; never two messages
    print(  # noqa: T201
        f"{len(records)} requests, {crowd.tries} tries, faults {dict(crowd.faults)}, {len(exhausted)} exhausted, "
        f"attempts {dict(Counter(record.attempt for record in records.values()))}, "
        f"{len(crowd.receiver.got)} deliveries of {len(told)} messages"
    )


async def test_no_fault_loses_a_job_or_ends_it_twice(store: str, tmp_path: Path) -> None:
    """Ten faults for each store."""
    await _survive(store, tmp_path / "files", faults=10, jobs=80)


@pytest.mark.long
async def test_two_hundred_faults_lose_no_job(store: str, tmp_path: Path) -> None:
    """Nor end one twice."""
    await _survive(store, tmp_path / "files", faults=200, jobs=1500)
