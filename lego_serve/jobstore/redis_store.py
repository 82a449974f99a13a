"""The store of durable jobs in Redis: for gateways on several machines.

Redis should keep an append-only file and must not evict (``maxmemory-policy noeviction``).  With ``appendfsync always``
nothing that was acknowledged is lost.  ``everysec`` is faster and loses up to two seconds: with the machine, and with
the process where the disk is slow, since Redis then answers before it has written.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError, ResponseError

from lego_serve.core.durable_jobs.ids import claim_order
from lego_serve.core.durable_jobs.outbox import OutboxRow
from lego_serve.core.durable_jobs.record import JobRecord, JobStatus
from lego_serve.core.durable_jobs.record_json import record_from_json, record_to_json, row_from_json, row_to_json
from lego_serve.core.durable_jobs.store import JobCounts, JobPage, JobQuery
from lego_serve.core.durable_jobs.transitions import Change
from lego_serve.jobstore import redis_scripts as lua
from lego_serve.jobstore.redis_client import ScriptRunner

PREFIX = "{lego}:"
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

    async def put(self, record: JobRecord) -> JobRecord:
        """Keep a new record, or return the one of its key."""
        request = record.request
        words = (record.id, _key_of(record), request.tenant, self._lease_s, *_words(record), _text(request.deadline_at))
        try:
            earlier = await self._scripts.run(lua.PUT, *words)
        except ResponseError as error:
            if str(error).startswith("TAKEN"):
                raise ValueError(f"the job id {record.id} is taken") from None
            raise
        return record if earlier is None else _read_one(earlier)

    async def get(self, job_id: str) -> JobRecord | None:
        """Return a record."""
        found = _read([await self._scripts.run(lua.GET, job_id)])
        return found[0] if found else None

    async def find(self, tenant: str, key: str) -> JobRecord | None:
        """Return the job of a key."""
        found = _read([await self._scripts.run(lua.FIND, _idempotency_key(tenant, key))])
        return found[0] if found else None

    async def page(self, query: JobQuery) -> JobPage:
        """Return jobs of a tenant; a list by status or model is searched in chunks, so that Redis serves others too."""
        is_plain = query.status is None and query.model is None
        count = query.limit + 1 if is_plain else PAGE_CHUNK
        after, found = query.after or "", list[JobRecord]()
        while True:
            chunk = _read(await self._scripts.run(lua.PAGE, query.tenant, count, after, "1" if query.ascending else ""))
            found += [record for record in chunk if query.matches(record)]
            if len(chunk) < count or len(found) > query.limit:
                return JobPage(tuple(found[: query.limit]), len(found) > query.limit)
            after = chunk[-1].id

    async def position(self, record: JobRecord) -> int | None:
        """Return how many queued jobs come first."""
        position: int | None = await self._scripts.run(lua.POSITION, record.id)
        return position

    async def open_jobs(self, tenant: str) -> int:
        """Return how many jobs of a tenant have not ended."""
        return int(await self._scripts.run(lua.OPEN_JOBS, tenant))

    async def counts(self) -> JobCounts:
        """Return how many jobs and messages there are."""
        return JobCounts(*map(int, await self._scripts.run(lua.COUNTS)))

    async def claim(self, owner: str, count: int) -> tuple[JobRecord, ...]:
        """Give the first queued jobs to an owner."""
        return tuple(_read(await self._scripts.run(lua.CLAIM, owner, count, self._lease_s)))

    async def write(self, change: Change) -> bool:
        """Set a record where it is still the one that was changed."""
        messages = [word for row in change.outbox for word in (row.id, row.due_at, row_to_json(row))]
        after = change.record
        written = await self._scripts.run(lua.WRITE, after.id, change.before.version, *_words(after), *messages)
        return bool(written)

    async def forget(self, record: JobRecord) -> bool:
        """Remove a record and its key."""
        return bool(await self._scripts.run(lua.FORGET, record.id, record.version))

    async def beat(self, owner: str) -> bool:
        """Renew a lease."""
        return bool(await self._scripts.run(lua.BEAT, owner, self._lease_s))

    async def lapsed_owners(self) -> Sequence[str]:
        """Return the owners whose leases are over."""
        return sorted(await self._scripts.run(lua.LAPSED))

    async def owned(self, owner: str) -> Sequence[JobRecord]:
        """Return the jobs of an owner, by id."""
        return _read(await self._scripts.run(lua.OWNED, owner))

    async def owned_ids(self, owner: str) -> Sequence[str]:
        """Return the ids of the jobs of an owner."""
        return sorted(await self._scripts.run(lua.OWNED_IDS, owner))

    async def drop_owner(self, owner: str) -> bool:
        """End a lease unless the owner runs jobs."""
        return bool(await self._scripts.run(lua.DROP_OWNER, owner))

    async def due(self, limit: int) -> Sequence[JobRecord]:
        """Return the jobs that time has something to say about."""
        return _read(await self._scripts.run(lua.DUE, limit))

    async def take_outbox(self, limit: int, hold_s: float) -> Sequence[OutboxRow]:
        """Return due messages and put them off."""
        return [row_from_json(text) for text in await self._scripts.run(lua.TAKE_OUTBOX, limit, hold_s)]

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


def _read(hashes: Sequence[Sequence[Any]]) -> list[JobRecord]:
    return [_read_one(fields) for fields in hashes if fields[0] is not None]


def _read_one(fields: Sequence[Any]) -> JobRecord:
    """Return a record: its text, and what the latest claim changed of it beside."""
    text, version, status, attempt, owner, started_at = fields
    return replace(
        record_from_json(text),
        version=int(version),
        status=JobStatus(status),
        attempt=int(attempt),
        owner=owner or None,
        started_at=float(started_at) if started_at else None,
    )
