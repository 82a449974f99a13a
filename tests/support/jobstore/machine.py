"""One state machine for every store of durable jobs: whatever happens, it is what the memory store would do.

Beside that comparison each rule says what must hold of the answer itself, so that the memory store is tested as well.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from lego_serve.core.durable_jobs.ids import claim_order
from lego_serve.core.durable_jobs.outbox import OutboxRow, after_failure
from lego_serve.core.durable_jobs.record import JobError, JobRecord, JobStatus, StoredProgress
from lego_serve.core.durable_jobs.store import JobQuery, JobSize, JobStore, Room
from lego_serve.core.durable_jobs.transitions import (
    Change,
    Retention,
    cancel,
    claim,
    complete,
    fail,
    hand_over,
    progress,
)
from lego_serve.errors import JobEnded, StaleAttempt
from lego_serve.jobstore.memory import MemoryJobStore
from lego_serve.jobstore.sweeping import Swept, release, sweep
from tests.support.jobstore.jobs import HOOK, answer_to, new_job

T = TypeVar("T")
LEASE_S = 15.0
RETENTION = Retention(queued_s=60.0, ended_s=40.0)
OWNERS = st.sampled_from(["gateway a", "gateway b", "gateway c"])
NAMES = ["default", "tenant:b", "tenant\tc"]
TENANTS = st.sampled_from(NAMES)
WEIGHTS = {"tenant:b": 2.0}
ROOM = Room(open_jobs=6, stored_bytes=100)
RESULT = {"images": [{"bytes": 25}, {"bytes": 5}], "data": [1]}
SIZES = st.sampled_from([JobSize(), JobSize(30), JobSize(10, 20)])
AHEAD = st.sampled_from([0.5, 8.0, 16.0, 64.0])


class JobStoreMachine(RuleBasedStateMachine):
    """Gateways come and go over one store; a subclass opens it."""

    jobs = Bundle("jobs")  # ids
    claims = Bundle("claims")  # records as they were claimed, which a gateway holds and may be stale
    messages = Bundle("messages")

    def __init__(self) -> None:
        super().__init__()
        self.time = 1000.0
        self.loop = asyncio.new_event_loop()
        self.plain = MemoryJobStore(lambda: self.time, LEASE_S)
        self.store = self.run(self.open_store())
        self.number = 0
        self.keys: dict[tuple[str, str], str] = {}
        self.ended: dict[str, JobRecord] = {}
        self.attempts: dict[str, int] = {}
        self.told: set[str] = set()
        self.notes: dict[str, tuple[float, str]] = {}

    async def open_store(self) -> JobStore:
        """Return an empty store whose clock is ``self.time``."""
        raise NotImplementedError

    async def set_time(self) -> None:
        """Tell the store that ``self.time`` has moved."""

    def teardown(self) -> None:
        """Close the store."""
        self.run(self.store.close())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a store's answer."""
        return self.loop.run_until_complete(work)

    def both(self, ask: Callable[[JobStore], Coroutine[Any, Any, T]]) -> T:
        """Ask both stores, and see that they say the same."""
        expected, answer = self.run(ask(self.plain)), self.run(ask(self.store))
        assert answer == expected
        return answer

    @rule(
        target=jobs,
        tenant=TENANTS,
        priority=st.sampled_from([-10, 0, 10]),
        deadline_s=st.none() | AHEAD,
        key=st.sampled_from([None, "key", "b:key"]),
        owner=st.none() | OWNERS,
        is_told=st.booleans(),
        size=SIZES,
    )
    def submit(
        self, tenant: str, priority: int, deadline_s: float | None, key: str | None, owner: str | None, is_told: bool,
        size: JobSize,
    ) -> Any:  # fmt: skip
        """A request is accepted, and claimed at once where its gateway has room; a key stands for its first job.

        One of a tenant that has as much as it may is refused, unless its key is known.
        """
        self.number += 1
        deadline_at = None if deadline_s is None else self.time + deadline_s
        job = new_job(
            self.number, self.time, RETENTION, tenant=tenant, priority=priority, deadline_at=deadline_at, key=key,
            webhook=HOOK if is_told else None, model=f"model {self.number % 2}",
        )  # fmt: skip
        job = job if owner is None else claim(job, owner, self.time).record
        refused = None if (tenant, key or "") in self.keys else self.run(self.refusal(tenant, size))
        if refused is not None:
            assert self.both(lambda store: answer_to(store.put(job, size, ROOM))) == refused
            return multiple()
        kept = self.both(lambda store: store.put(job, size, ROOM))
        if key is not None:
            assert self.both(lambda store: store.find(tenant, key)) == kept
            assert self.both(lambda store: store.find(tenant, f"{key} other")) is None
            first = self.keys.setdefault((tenant, key), job.id)
            assert kept.id == first
            assert (kept == job) == (first == job.id)
        else:
            assert kept == job
        return kept.id

    @rule(target=claims, owner=OWNERS, count=st.integers(1, 3))
    def claim(self, owner: str, count: int) -> Any:
        """A gateway gets the jobs of those that have least, in each one's claim order, each as a new attempt."""
        running, queued = (self.count_by_tenant(status) for status in (JobStatus.IN_PROGRESS, JobStatus.QUEUED))
        claimed = self.both(lambda store: store.claim(owner, count, WEIGHTS))
        for job in claimed:
            tenant = job.request.tenant
            share = running[tenant] / WEIGHTS.get(tenant, 1.0)
            assert all(share <= running[each] / WEIGHTS.get(each, 1.0) for each in queued if queued[each])
            running[tenant], queued[tenant] = running[tenant] + 1, queued[tenant] - 1
        for tenant in queued:
            orders = [claim_order(job) for job in claimed if job.request.tenant == tenant]
            assert orders == sorted(orders)
        for job in claimed:
            assert job.attempt > self.attempts.get(job.id, 0)
            self.attempts[job.id] = job.attempt
            assert (job.status, job.owner) == (JobStatus.IN_PROGRESS, owner)
        return multiple(*claimed)

    @rule(
        job_id=jobs, what=st.sampled_from(["complete", "fail", "progress", "hand over", "cancel"]), older=st.booleans()
    )
    def decide(self, job_id: str, what: str, older: bool) -> None:
        """Somebody decides about the job as it is: the owner, one that was given up, or the caller."""
        job = self.run(self.store.get(job_id))
        if job is not None:
            self._write(job, what, job.attempt - 1 if older else job.attempt)

    @rule(held=claims, what=st.sampled_from(["complete", "fail", "progress", "hand over"]))
    def decide_late(self, held: JobRecord, what: str) -> None:
        """A gateway decides by the record that it claimed, whatever has become of it since."""
        self._write(held, what, held.attempt)

    def _write(self, known: JobRecord, what: str, attempt: int) -> None:
        try:
            change: Change = {
                "complete": lambda: complete(known, attempt, RESULT, self.time),
                "fail": lambda: fail(known, attempt, JobError("node_failed", "No."), self.time),
                "progress": lambda: progress(known, attempt, StoredProgress(30, 6, 20)),
                "hand over": lambda: hand_over(known, attempt),
                "cancel": lambda: cancel(known, self.time),
            }[what]()
        except (JobEnded, StaleAttempt):
            return
        held = self.run(self.plain.get(known.id))
        written = self.both(lambda store: store.write(change))
        assert written == (held is not None and held.version == known.version)
        if written:
            self.told |= {row.id for row in change.outbox}

    @rule(seconds=AHEAD)
    def wait(self, seconds: float) -> None:
        """Time passes; what lapses is found by a sweep and by nothing else."""
        self.time += seconds
        self.run(self.set_time())

    @rule(owner=OWNERS)
    def beat(self, owner: str) -> None:
        """A gateway renews its lease."""
        self.both(lambda store: store.beat(owner))

    @rule(owner=OWNERS)
    def die(self, owner: str) -> None:
        """A gateway is seen to die: it has no job afterwards, and each goes round again or has failed."""
        freed = self.both(lambda store: release(store, owner))
        assert all(job.status in (JobStatus.QUEUED, JobStatus.FAILED) for job in freed)
        assert self.both(lambda store: store.owned(owner)) == []
        assert list(self.both(lambda store: store.owned_ids(owner))) == []
        self._note_ends(freed)

    @rule(limit=st.sampled_from([1, 500]))
    def sweep(self, limit: int) -> None:
        """Lapsed gateways lose their jobs, late jobs expire, old ones are forgotten with their keys."""
        swept: Swept = self.both(lambda store: sweep(store, limit))
        self._note_ends(swept.released)
        self._note_ends(swept.expired)
        for job in swept.forgotten:
            assert job.expires_at is not None
            assert job.expires_at <= self.time
            self.ended.pop(job.id, None)
            self.keys.pop((job.request.tenant, job.request.key or ""), None)

    def _note_ends(self, jobs: tuple[JobRecord, ...]) -> None:
        self.told |= {f"msg_{job.id}_{job.status}" for job in jobs if job.status.has_ended and job.request.webhook}

    @rule(name=st.sampled_from(["a", "b"]), text=st.sampled_from(["x", "y"]), keep_s=AHEAD, replaces=st.booleans())
    def note(self, name: str, text: str, keep_s: float, replaces: bool) -> None:
        """A text is kept for a while; the first one stays unless it is replaced."""
        kept = self.both(lambda store: store.note(name, text, keep_s, replaces=replaces))
        until, before = self.notes.get(name, (0.0, ""))
        expected = before if until > self.time and not replaces else text
        assert kept == expected
        if replaces or until <= self.time:
            self.notes[name] = (self.time + keep_s, text)

    @rule(target=messages, limit=st.integers(1, 3))
    def take_messages(self, limit: int) -> Any:
        """A sender gets what is due; each is about an end that was written."""
        rows = self.both(lambda store: store.take_outbox(limit, 5.0))
        assert {row.id for row in rows} <= self.told
        return multiple(*rows)

    @rule(row=consumes(messages), is_delivered=st.booleans())
    def send(self, row: OutboxRow, is_delivered: bool) -> None:
        """A message is delivered, or tried again later."""
        again = after_failure(row, self.time, 0.0)
        if is_delivered or again is None:
            self.both(lambda store: store.settle(row.id))
            self.told.discard(row.id)
        else:
            self.both(lambda store: store.postpone(again))

    @rule(
        tenant=TENANTS,
        limit=st.integers(1, 3),
        ascending=st.booleans(),
        status=st.none() | st.sampled_from(list(JobStatus)),
        model=st.none() | st.just("model 1"),
    )
    def read_list(self, tenant: str, limit: int, ascending: bool, status: JobStatus | None, model: str | None) -> None:
        """Page by page a list holds every job of its tenant once, in order."""
        found: list[str] = []
        after = None
        while True:
            query = JobQuery(tenant, limit, after, ascending, status, model)
            page = self.both(lambda store: store.page(query))  # noqa: B023 - asked at once
            found += [job.id for job in page.jobs]
            assert len(page.jobs) <= limit
            if not page.has_more:
                break
            after = page.jobs[-1].id
        assert found == sorted(set(found), reverse=not ascending)

    @rule(job_id=jobs)
    def look(self, job_id: str) -> None:
        """What a store says of a job is whole, and once it has ended it stays as it was."""
        job = self.both(lambda store: store.get(job_id))
        if job is None:
            return
        position = self.both(lambda store: store.position(job))
        assert (position is None) == (job.status is not JobStatus.QUEUED)
        if job.status.has_ended:
            assert self.ended.setdefault(job.id, job) == job
        assert (job.owner is None) == (job.status is not JobStatus.IN_PROGRESS)

    @invariant()
    def has_the_same_lists(self) -> None:
        """Who owns what, what is due and whose lease lapsed is the same in both."""
        self.both(lambda store: store.lapsed_owners())
        self.both(lambda store: store.due(500))
        self.both(lambda store: store.counts())
        for tenant in NAMES:
            held = self.both(lambda store: store.held(tenant))  # noqa: B023 - asked at once
            page = self.run(self.plain.page(JobQuery(tenant, 100)))
            assert page.has_more or held.open_jobs == sum(not job.status.has_ended for job in page.jobs)
            assert held.open_jobs <= (ROOM.open_jobs or 0)
            assert page.has_more or page.jobs or not held.stored_bytes

    async def refusal(self, tenant: str, size: JobSize) -> str | None:
        """Why a tenant may have no job more of this size; None where it may."""
        held = await self.plain.held(tenant)

        async def check() -> None:
            ROOM.check(held, size)

        return await answer_to(check())

    def count_by_tenant(self, status: JobStatus) -> dict[str, int]:
        """How many jobs of each tenant have a status."""
        queries = {name: JobQuery(name, 100, status=status) for name in NAMES}
        return {name: len(self.run(self.plain.page(query)).jobs) for name, query in queries.items()}
