"""The store of durable jobs in this process's memory: for tests, and the plainest statement of what a store does."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lego_serve.core.durable_jobs.ids import claim_order
from lego_serve.core.durable_jobs.outbox import OutboxRow
from lego_serve.core.durable_jobs.record import JobRecord, JobStatus
from lego_serve.core.durable_jobs.store import (
    ANY_ROOM,
    NO_FILES,
    Held,
    JobCounts,
    JobPage,
    JobQuery,
    JobSize,
    Room,
    result_bytes,
)
from lego_serve.core.durable_jobs.transitions import Change, claim
from lego_serve.core.durable_jobs.turns import NO_WEIGHTS, Standing, next_tenant


class MemoryJobStore:
    """A JobStore whose records end with the process."""

    def __init__(self, clock: Callable[[], float], lease_s: float) -> None:
        self._clock, self._lease_s = clock, lease_s
        self._records: dict[str, JobRecord] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._sizes: dict[str, JobSize] = {}
        self._turns: dict[str, int] = {}  # the number of the claim that each tenant last had
        self._leases: dict[str, float] = {}
        self._outbox: dict[str, tuple[float, OutboxRow]] = {}  # when each is due, which a hold puts off
        self._settings: dict[str, str] = {}
        self._notes: dict[str, tuple[float, str]] = {}  # until when, and what
        self._changed = asyncio.Event()

    async def now(self) -> float:
        """Return the seconds on the clock."""
        return self._clock()

    async def put(self, record: JobRecord, size: JobSize = NO_FILES, room: Room = ANY_ROOM) -> JobRecord:
        """Keep a new record, or return the one of its key."""
        key = _key_of(record)
        if key is not None and key in self._keys:
            return self._records[self._keys[key]]
        room.check(await self.held(record.request.tenant), size)
        if record.id in self._records:
            raise ValueError(f"the job id {record.id} is taken")
        self._sizes[record.id] = size
        if key is not None:
            self._keys[key] = record.id
        if record.owner is not None:
            self._leases[record.owner] = self._clock() + self._lease_s
        self._set(record)
        return record

    async def get(self, job_id: str) -> JobRecord | None:
        """Return a record."""
        return self._records.get(job_id)

    async def find(self, tenant: str, key: str) -> JobRecord | None:
        """Return the job of a key."""
        job_id = self._keys.get((tenant, key))
        return None if job_id is None else self._records[job_id]

    async def page(self, query: JobQuery) -> JobPage:
        """Return jobs of a tenant."""
        ids = sorted((i for i, r in self._records.items() if r.request.tenant == query.tenant), reverse=True)
        if query.ascending:
            ids.reverse()
        if query.after is not None:
            after = query.after
            ids = [each for each in ids if (each > after if query.ascending else each < after)]
        found = [self._records[each] for each in ids if query.matches(self._records[each])]
        return JobPage(tuple(found[: query.limit]), len(found) > query.limit)

    async def position(self, record: JobRecord) -> int | None:
        """Return how many queued jobs of its tenant come first."""
        queued = [each.id for each in self._queued(record.request.tenant)]
        return queued.index(record.id) if record.id in queued else None

    async def held(self, tenant: str) -> Held:
        """Return what a tenant has here."""
        own = [record for record in self._records.values() if record.request.tenant == tenant]
        sizes = [self._sizes[record.id] for record in own]
        return Held(sum(not each.status.has_ended for each in own), sum(each.passing + each.kept for each in sizes))

    async def counts(self) -> JobCounts:
        """Return how many jobs and messages there are."""
        states = Counter(record.status for record in self._records.values())
        return JobCounts(states[JobStatus.QUEUED], states[JobStatus.IN_PROGRESS], len(self._outbox))

    async def claim(self, owner: str, count: int, weights: Mapping[str, float] = NO_WEIGHTS) -> tuple[JobRecord, ...]:
        """Give jobs to an owner, each the first of the tenant that is next."""
        now = self._clock()
        self._leases[owner] = now + self._lease_s
        claimed = list[JobRecord]()
        while len(claimed) < count and (tenant := next_tenant(self._waiting(weights))) is not None:
            record = claim(self._queued(tenant.tenant)[0], owner, now).record
            self._turns[tenant.tenant] = 1 + max(self._turns.values(), default=0)
            self._set(record)
            claimed.append(record)
        return tuple(claimed)

    async def write(self, change: Change) -> bool:
        """Set a record where it is still the one that was changed."""
        if not self._holds(change.before):
            return False
        self._set(change.record)
        if change.record.status.has_ended:
            kept = self._sizes[change.record.id].kept + result_bytes(change.record)
            self._sizes[change.record.id] = JobSize(kept=kept)
        self._outbox |= {row.id: (row.due_at, row) for row in change.outbox}
        return True

    async def forget(self, record: JobRecord) -> bool:
        """Remove a record and its key."""
        if not self._holds(record):
            return False
        del self._records[record.id], self._sizes[record.id]
        if (key := _key_of(record)) is not None:
            del self._keys[key]
        self._changed.set()
        return True

    async def beat(self, owner: str) -> bool:
        """Renew a lease."""
        now = self._clock()
        was_held = self._leases.get(owner, now) > now
        self._leases[owner] = now + self._lease_s
        return was_held

    async def lapsed_owners(self) -> Sequence[str]:
        """Return the owners whose leases are over."""
        now = self._clock()
        return sorted(owner for owner, until in self._leases.items() if until <= now)

    async def owned(self, owner: str) -> Sequence[JobRecord]:
        """Return the jobs of an owner, by id."""
        return [record for _, record in sorted(self._records.items()) if record.owner == owner]

    async def owned_ids(self, owner: str) -> Sequence[str]:
        """Return the ids of the jobs of an owner."""
        return [record.id for record in await self.owned(owner)]

    async def drop_owner(self, owner: str) -> bool:
        """End a lease unless the owner runs jobs."""
        if await self.owned(owner):
            return False
        self._leases.pop(owner, None)
        return True

    async def due(self, limit: int) -> Sequence[JobRecord]:
        """Return the jobs that time has something to say about."""
        now = self._clock()
        found = [(r.due_at, r.id, r) for r in self._records.values() if r.due_at is not None and r.due_at <= now]
        return [record for _, _, record in sorted(found, key=lambda each: each[:2])[:limit]]

    async def take_outbox(self, limit: int, hold_s: float) -> Sequence[OutboxRow]:
        """Return due messages and put them off."""
        now = self._clock()
        ready = sorted((due_at, row.id) for due_at, row in self._outbox.values() if due_at <= now)[:limit]
        rows = [self._outbox[row_id][1] for _, row_id in ready]
        self._outbox |= {row.id: (now + hold_s, row) for row in rows}
        return rows

    async def postpone(self, row: OutboxRow) -> None:
        """Set when a message is tried next."""
        if row.id in self._outbox:
            self._outbox[row.id] = (row.due_at, replace(row))

    async def settle(self, row_id: str) -> None:
        """Remove a message."""
        self._outbox.pop(row_id, None)

    async def note(self, name: str, text: str, keep_s: float, *, replaces: bool) -> str:
        """Keep a text for a while."""
        now = self._clock()
        self._notes = {each: kept for each, kept in self._notes.items() if kept[0] > now}
        if replaces or name not in self._notes:
            self._notes[name] = (now + keep_s, text)
        return self._notes[name][1]

    async def setting(self, name: str, first: str) -> str:
        """Return what is kept under a name."""
        return self._settings.setdefault(name, first)

    async def set_setting(self, name: str, value: str) -> None:
        """Keep a value under a name."""
        self._settings[name] = value

    async def wait_for_change(self, timeout_s: float) -> bool:
        """Wait until a record changes."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    async def close(self) -> None:
        """Nothing is held."""

    def _holds(self, record: JobRecord) -> bool:
        held = self._records.get(record.id)
        return held is not None and held.version == record.version

    def _waiting(self, weights: Mapping[str, float]) -> list[Standing]:
        """Return the tenants that have jobs waiting."""
        running, queued = (
            Counter(record.request.tenant for record in self._records.values() if record.status is status)
            for status in (JobStatus.IN_PROGRESS, JobStatus.QUEUED)
        )
        return [Standing(name, running[name], self._turns.get(name, 0), weights.get(name, 1.0)) for name in queued]

    def _queued(self, tenant: str) -> list[JobRecord]:
        own = (record for record in self._records.values() if record.request.tenant == tenant)
        return sorted((record for record in own if record.status is JobStatus.QUEUED), key=claim_order)

    def _set(self, record: JobRecord) -> None:
        self._records[record.id] = record
        self._changed.set()


def _key_of(record: JobRecord) -> tuple[str, str] | None:
    key = record.request.key
    return None if key is None else (record.request.tenant, key)
