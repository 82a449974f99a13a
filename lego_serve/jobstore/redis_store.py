"""The store of durable jobs in Redis: for gateways on several machines.

Redis should keep an append-only file and must not evict (``maxmemory-policy noeviction``).  With ``appendfsync always``
nothing that was acknowledged is lost.  ``everysec`` is faster and loses up to two seconds: with the machine, and with
the process where the disk is slow, since Redis then answers before it has written.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError, ResponseError

from lego_serve.core.durable_jobs.ids import claim_order
from lego_serve.core.durable_jobs.outbox import NEVER, OutboxRow
from lego_serve.core.durable_jobs.record import JobRecord, JobStatus
from lego_serve.core.durable_jobs.record_json import (
    BadRecord,
    record_from_json,
    record_to_json,
    row_from_json,
    row_to_json,
)
from lego_serve.core.durable_jobs.store import (
    ANY_ROOM,
    NO_FILES,
    UNREADABLE,
    Held,
    JobCounts,
    JobPage,
    JobQuery,
    JobSize,
    Room,
    result_bytes,
)
from lego_serve.core.durable_jobs.transitions import Change
from lego_serve.core.durable_jobs.turns import NO_WEIGHTS
from lego_serve.jobstore import redis_job_scripts as job_lua
from lego_serve.jobstore import redis_scripts as lua
from lego_serve.jobstore.redis_client import ScriptRunner

log = logging.getLogger("lego_serve.jobs")
PREFIX = "{lego}:"
Row: TypeAlias = Sequence[Any]  # what ``read`` of the scripts answers: the id, and six fields of a job's hash
HELD_FIELDS = 2  # of the answer to a submission that has no room, where that of an earlier job has more
PAGE_CHUNK = 200  # records read at once while a list is searched for a status or a model


class RedisJobStore:
    """A JobStore in Redis.  Leases are measured by the server's clock, whatever the gateways' say."""

    def __init__(self, client: Redis, lease_s: float, *, prefix: str = PREFIX, now_lua: str = lua.SERVER_TIME) -> None:
        self._scripts = ScriptRunner(client, prefix, now_lua)
        self._lease_s, self._channel = lease_s, f"{prefix}changes"
        self._listening: PubSub | None = None

    @property
    def is_available(self) -> bool:
        """Whether Redis answered lately."""
        return self._scripts.is_available

    async def now(self) -> float:
        """Return the server's wall clock."""
        return float(await self._scripts.run(lua.NOW))

    async def put(self, record: JobRecord, size: JobSize = NO_FILES, room: Room = ANY_ROOM) -> JobRecord:
        """Keep a new record, or return the one of its key."""
        request = record.request
        bounds = [
            size.passing,
            size.kept,
            *("" if most is None else most for most in (room.open_jobs, room.stored_bytes)),
        ]
        words = (record.id, _key_of(record), request.tenant, self._lease_s, *bounds, *_words(record))
        try:
            answer = await self._scripts.run(job_lua.PUT, *words, _text(request.deadline_at))
        except ResponseError as error:
            if str(error).startswith("TAKEN"):
                raise ValueError(f"the job id {record.id} is taken") from None
            raise
        if answer is None:
            return record
        if len(answer) == HELD_FIELDS:
            room.check(Held(*map(int, answer)), size)
            raise AssertionError(f"a submission was refused that has room: {answer} in {room}")
        return _read(answer)

    async def get(self, job_id: str) -> JobRecord | None:
        """Return a record."""
        row = await self._scripts.run(lua.GET, job_id)
        return None if row[1] is None else _read(row)

    async def find(self, tenant: str, key: str) -> JobRecord | None:
        """Return the job of a key."""
        row = await self._scripts.run(lua.FIND, _idempotency_key(tenant, key))
        return None if row[1] is None else _read(row)

    async def page(self, query: JobQuery) -> JobPage:
        """Return jobs of a tenant; a list by status or model is searched in chunks, so that Redis serves others too."""
        is_plain = query.status is None and query.model is None
        count = query.limit + 1 if is_plain else PAGE_CHUNK
        after, found = query.after or "", list[JobRecord]()
        while True:
            rows = await self._scripts.run(lua.PAGE, query.tenant, count, after, "1" if query.ascending else "")
            chunk = await self._records([row for row in rows if row[3] != UNREADABLE])
            found += [record for record in chunk if query.matches(record)]
            if len(rows) < count or len(found) > query.limit:
                return JobPage(tuple(found[: query.limit]), len(found) > query.limit)
            after = rows[-1][0]

    async def position(self, record: JobRecord) -> int | None:
        """Return how many queued jobs of its tenant come first."""
        position: int | None = await self._scripts.run(lua.POSITION, record.id)
        return position

    async def held(self, tenant: str) -> Held:
        """Return what a tenant has here."""
        return Held(*map(int, await self._scripts.run(lua.HELD, tenant)))

    async def counts(self) -> JobCounts:
        """Return how many jobs and messages there are."""
        return JobCounts(*map(int, await self._scripts.run(lua.COUNTS)))

    async def claim(self, owner: str, count: int, weights: Mapping[str, float] = NO_WEIGHTS) -> tuple[JobRecord, ...]:
        """Give jobs to an owner, each the first of the tenant that is next."""
        words = [word for tenant, weight in weights.items() for word in (tenant, weight)]
        claimed = list[JobRecord]()
        while True:  # again in place of those that cannot be read
            left = count - len(claimed)
            rows = await self._scripts.run(job_lua.CLAIM, owner, left, self._lease_s, *words)
            found = await self._records(rows)
            claimed += found
            if len(found) == len(rows):
                return tuple(claimed)

    async def write(self, change: Change) -> bool:
        """Set a record where it is still the one that was changed."""
        messages = [word for row in change.outbox for word in (row.id, row.due_at, row_to_json(row))]
        after = change.record
        words = (after.id, change.before.version, result_bytes(after), *_words(after), *messages)
        return bool(await self._scripts.run(job_lua.WRITE, *words))

    async def forget(self, record: JobRecord) -> bool:
        """Remove a record and its key."""
        return bool(await self._scripts.run(job_lua.FORGET, record.id, record.version))

    async def beat(self, owner: str) -> bool:
        """Renew a lease."""
        return bool(await self._scripts.run(lua.BEAT, owner, self._lease_s))

    async def lapsed_owners(self) -> Sequence[str]:
        """Return the owners whose leases are over."""
        return sorted(await self._scripts.run(lua.LAPSED))

    async def owned(self, owner: str) -> Sequence[JobRecord]:
        """Return the jobs of an owner, by id."""
        return await self._records(await self._scripts.run(lua.OWNED, owner), owner)

    async def owned_ids(self, owner: str) -> Sequence[str]:
        """Return the ids of the jobs of an owner."""
        return sorted(await self._scripts.run(lua.OWNED_IDS, owner))

    async def drop_owner(self, owner: str) -> bool:
        """End a lease unless the owner runs jobs."""
        return bool(await self._scripts.run(lua.DROP_OWNER, owner))

    async def due(self, limit: int) -> Sequence[JobRecord]:
        """Return the jobs that time has something to say about."""
        return await self._records(await self._scripts.run(lua.DUE, limit))

    async def take_outbox(self, limit: int, hold_s: float) -> Sequence[OutboxRow]:
        """Return due messages and put them off."""
        rows = list[OutboxRow]()
        for row_id, text in await self._scripts.run(lua.TAKE_OUTBOX, limit, hold_s):
            try:
                rows.append(row_from_json(_bytes(text)))
            except BadRecord as error:
                await self._scripts.run(lua.POSTPONE, row_id, NEVER, text or "")
                log.error("message %s cannot be read and is set aside: %s", row_id, error.message)
        return rows

    async def postpone(self, row: OutboxRow) -> None:
        """Set when a message is tried next."""
        await self._scripts.run(lua.POSTPONE, row.id, row.due_at, row_to_json(row))

    async def settle(self, row_id: str) -> None:
        """Remove a message."""
        await self._scripts.run(lua.SETTLE, row_id)

    async def note(self, name: str, text: str, keep_s: float, *, replaces: bool) -> str:
        """Keep a text for a while."""
        return str(await self._scripts.run(lua.NOTE, name, text, keep_s, "1" if replaces else ""))

    async def setting(self, name: str, first: str) -> str:
        """Return what is kept under a name."""
        return str(await self._scripts.run(lua.SETTING, name, first))

    async def set_setting(self, name: str, value: str) -> None:
        """Keep a value under a name."""
        await self._scripts.run(lua.SET_SETTING, name, value)

    async def wait_for_change(self, timeout_s: float) -> bool:
        """Listen for what scripts announce; where Redis is away, wait out the time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        try:
            if self._listening is None:
                listening = self._scripts.client.pubsub(ignore_subscribe_messages=True)
                await listening.subscribe(self._channel)
                self._listening = listening
                return True  # whatever was changed before was not heard
            while (left_s := until - loop.time()) > 0:
                if await self._listening.get_message(timeout=left_s) is not None:
                    return True
        except (RedisError, OSError):
            await self._stop_listening()
            await asyncio.sleep(max(0.0, until - loop.time()))
        return False

    async def close(self) -> None:
        """Close the connections."""
        await self._stop_listening()
        await self._scripts.client.aclose()

    async def _records(self, rows: Sequence[Row], owner: str = "") -> list[JobRecord]:
        """Return the records of the rows that can be read, and set the others aside; ``owner`` has them all."""
        found = list[JobRecord]()
        for row in rows:
            try:
                found.append(_read(row))
            except BadRecord as error:
                job_id, version = str(row[0]), str(row[2] or "")
                if await self._scripts.run(job_lua.SET_ASIDE, job_id, version, owner):
                    log.error("job %s cannot be read and is set aside: %s", job_id, error.message)
        return found

    async def _stop_listening(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            await listening.aclose()  # type: ignore[no-untyped-call]


def _key_of(record: JobRecord) -> str:
    key, tenant = record.request.key, record.request.tenant
    return "" if key is None else _idempotency_key(tenant, key)


def _idempotency_key(tenant: str, key: str) -> str:
    return f"idem:{len(tenant)}:{tenant}:{key}"


def _words(record: JobRecord) -> tuple[str | int, ...]:
    """Return what the hash of a job holds."""
    order = claim_order(record) if record.status is JobStatus.QUEUED else ""
    return (
        record_to_json(record), record.version, record.status.value, record.attempt, record.owner or "",
        _text(record.started_at), order, _text(record.due_at),
    )  # fmt: skip


def _text(seconds: float | None) -> str:
    return "" if seconds is None else repr(seconds)


def _bytes(text: str | None) -> bytes:
    """Return a text as Redis has it; what is no UTF-8 there is a fault of its own record."""
    return (text or "").encode("utf-8", "surrogateescape")


def _read(row: Row) -> JobRecord:
    """Return a record: its text, and what the latest claim changed of it beside.  Raises BadRecord."""
    job_id, text, version, status, attempt, owner, started_at = row
    record = record_from_json(_bytes(text))
    if record.id != job_id:
        raise BadRecord(f"The record of job {job_id} is that of {record.id}.")
    try:
        return replace(
            record,
            version=int(version),
            status=JobStatus(status),
            attempt=int(attempt),
            owner=owner or None,
            started_at=float(started_at) if started_at else None,
        )
    except (TypeError, ValueError) as error:
        raise BadRecord(f"What stands beside the record of job {job_id} is damaged: {error}.") from None
