"""The store of durable jobs in an sqlite database: what a server has unless Redis is configured.

Several gateway processes of one machine open the same file.  It must lie on a local disk, because their shared memory
guards the log.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import apsw

from lego_serve.core.durable_jobs.outbox import NEVER, OutboxRow
from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.core.durable_jobs.record_json import BadRecord, record_to_json, row_from_json, row_to_json
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
)
from lego_serve.core.durable_jobs.transitions import Change
from lego_serve.core.durable_jobs.turns import NO_WEIGHTS
from lego_serve.errors import ConfigError
from lego_serve.jobstore.network_folders import file_system_of, is_network
from lego_serve.jobstore.sqlite_rows import READ, Row, claim_jobs, held, insert, read, read_each, set_all_aside, update
from lego_serve.jobstore.sqlite_schema import prepare
from lego_serve.jobstore.sqlite_thread import SqliteThread

T = TypeVar("T")
log = logging.getLogger("lego_serve.jobs")
POLL_S = 0.2
LEASE = "INSERT INTO owners VALUES (?,?) ON CONFLICT (owner) DO UPDATE SET lease_until=excluded.lease_until"


class SqliteJobStore:
    """A JobStore in a file."""

    def __init__(self, path: Path, clock: Callable[[], float], lease_s: float) -> None:
        if is_network(kind := file_system_of(path)):
            raise ConfigError(f"The job database {path} lies on {kind}; it must lie on a disk of this machine.")
        self._clock, self._lease_s = clock, lease_s
        self._thread = SqliteThread(path, prepare)
        self._own_writes = 0
        self._seen: tuple[int, int] | None = None

    async def now(self) -> float:
        """Return the seconds on the clock."""
        return self._clock()

    async def put(self, record: JobRecord, size: JobSize = NO_FILES, room: Room = ANY_ROOM) -> JobRecord:
        """Keep a new record, or return the one of its key."""
        request, text = record.request, record_to_json(record)  # here: while it is written, other processes wait

        def do(db: apsw.Connection) -> JobRecord:
            if request.key is not None:
                for row in db.execute(f"{READ} tenant=? AND key=?", (request.tenant, request.key)):
                    return read(row)
            room.check(held(db, request.tenant), size)
            insert(db, record, text, size)
            if record.owner is not None:
                db.execute(LEASE, (record.owner, self._clock() + self._lease_s))
            return record

        return await self._write(do)

    async def get(self, job_id: str) -> JobRecord | None:
        """Return a record."""
        return await self._one(f"{READ} id=?", job_id)

    async def find(self, tenant: str, key: str) -> JobRecord | None:
        """Return the job of a key."""
        return await self._one(f"{READ} tenant=? AND key=?", tenant, key)

    async def page(self, query: JobQuery) -> JobPage:
        """Return jobs of a tenant."""
        terms, values = ["tenant=?", f"status<>'{UNREADABLE}'"], [query.tenant]
        for term, value in (
            (f"id{'>' if query.ascending else '<'}?", query.after),
            ("status=?", query.status and query.status.value),
            ("model=?", query.model),
        ):
            if value is not None:
                terms.append(term)
                values.append(value)
        order = "ASC" if query.ascending else "DESC"
        asked = f"{READ} {' AND '.join(terms)} ORDER BY id {order} LIMIT {query.limit + 1}"
        found = await self._records(asked, *values)
        return JobPage(tuple(found[: query.limit]), len(found) > query.limit)

    async def position(self, record: JobRecord) -> int | None:
        """Return how many queued jobs of its tenant come first."""
        asked = """SELECT (SELECT count(*) FROM jobs WHERE tenant=self.tenant AND claim_order < self.claim_order)
                   FROM jobs AS self WHERE id=? AND claim_order IS NOT NULL"""
        position: int | None = await self._thread.read(lambda db: db.execute(asked, (record.id,)).get)
        return position

    async def held(self, tenant: str) -> Held:
        """Return what a tenant has here."""
        return await self._thread.read(lambda db: held(db, tenant))

    async def counts(self) -> JobCounts:
        """Return how many jobs and messages there are."""
        asked = f"""SELECT ifnull(sum(queued), 0), ifnull(sum(running), 0), (SELECT count(*) FROM outbox),
                    (SELECT count(*) FROM jobs WHERE status='{UNREADABLE}') FROM tenants"""
        counted: tuple[int, int, int, int] = await self._thread.read(lambda db: db.execute(asked).get)
        return JobCounts(*counted)

    async def claim(self, owner: str, count: int, weights: Mapping[str, float] = NO_WEIGHTS) -> tuple[JobRecord, ...]:
        """Give jobs to an owner, each the first of the tenant that is next."""

        def do(db: apsw.Connection) -> tuple[JobRecord, ...]:
            now = self._clock()
            db.execute(LEASE, (owner, now + self._lease_s))
            return claim_jobs(db, owner, count, weights, now)

        return await self._write(do)

    async def write(self, change: Change) -> bool:
        """Set a record where it is still the one that was changed."""
        text = record_to_json(change.record)
        messages = [(row.id, row.due_at, row_to_json(row)) for row in change.outbox]

        def do(db: apsw.Connection) -> bool:
            if not update(db, change, text):
                return False
            db.executemany("INSERT OR IGNORE INTO outbox VALUES (?,?,?)", messages)
            return True

        return await self._write(do)

    async def forget(self, record: JobRecord) -> bool:
        """Remove a record and its key."""

        def do(db: apsw.Connection) -> bool:
            db.execute("DELETE FROM jobs WHERE id=? AND version=?", (record.id, record.version))
            return db.changes() == 1

        return await self._write(do)

    async def beat(self, owner: str) -> bool:
        """Renew a lease."""

        def do(db: apsw.Connection) -> bool:
            now = self._clock()
            held = db.execute("SELECT 1 FROM owners WHERE owner=? AND lease_until>?", (owner, now)).get
            db.execute(LEASE, (owner, now + self._lease_s))
            return held is not None

        return await self._thread.write(do)

    async def lapsed_owners(self) -> Sequence[str]:
        """Return the owners whose leases are over."""
        asked = "SELECT owner FROM owners WHERE lease_until<=? ORDER BY owner"
        found = await self._thread.read(lambda db: db.execute(asked, (self._clock(),)).fetchall())
        return [str(owner) for (owner,) in found]

    async def owned(self, owner: str) -> Sequence[JobRecord]:
        """Return the jobs of an owner, by id."""
        return await self._records(f"{READ} owner=? ORDER BY id", owner)

    async def owned_ids(self, owner: str) -> Sequence[str]:
        """Return the ids of the jobs of an owner."""
        asked = "SELECT id FROM jobs WHERE owner=? ORDER BY id"
        return await self._thread.read(lambda db: [str(job_id) for (job_id,) in db.execute(asked, (owner,)).fetchall()])

    async def drop_owner(self, owner: str) -> bool:
        """End a lease unless the owner runs jobs."""

        def do(db: apsw.Connection) -> bool:
            if db.execute("SELECT 1 FROM jobs WHERE owner=? LIMIT 1", (owner,)).get is not None:
                return False
            db.execute("DELETE FROM owners WHERE owner=?", (owner,))
            return True

        return await self._thread.write(do)

    async def due(self, limit: int) -> Sequence[JobRecord]:
        """Return the jobs that time has something to say about."""
        return await self._records(f"{READ} due_at<=? ORDER BY due_at, id LIMIT ?", self._clock(), limit)

    async def take_outbox(self, limit: int, hold_s: float) -> Sequence[OutboxRow]:
        """Return due messages and put them off."""

        def do(db: apsw.Connection) -> list[OutboxRow]:
            now = self._clock()
            asked = "SELECT id, CAST(message AS BLOB) FROM outbox WHERE due_at<=? ORDER BY due_at, id LIMIT ?"
            rows = list[OutboxRow]()
            found: list[Row] = db.execute(asked, (now, limit)).fetchall()
            for row_id, text in found:
                until = now + hold_s
                try:
                    rows.append(row_from_json(text))
                except BadRecord as error:
                    until = NEVER
                    log.error("message %s cannot be read and is set aside: %s", row_id, error.message)
                db.execute("UPDATE outbox SET due_at=? WHERE id=?", (until, row_id))
            return rows

        return await self._thread.write(do)

    async def postpone(self, row: OutboxRow) -> None:
        """Set when a message is tried next."""
        values = (row.due_at, row_to_json(row), row.id)
        await self._thread.write(lambda db: db.execute("UPDATE outbox SET due_at=?, message=? WHERE id=?", values))

    async def settle(self, row_id: str) -> None:
        """Remove a message."""
        await self._thread.write(lambda db: db.execute("DELETE FROM outbox WHERE id=?", (row_id,)))

    async def note(self, name: str, text: str, keep_s: float, *, replaces: bool) -> str:
        """Keep a text for a while; who only asks again and again what is kept keeps no writer waiting."""
        asked = "SELECT text FROM notes WHERE name=? AND until>?"
        if not replaces and (kept := await self._thread.read(lambda db: db.execute(asked, (name, self._clock())).get)):
            return str(kept)

        def do(db: apsw.Connection) -> str:
            now = self._clock()
            db.execute("DELETE FROM notes WHERE until<=?", (now,))
            how = "REPLACE" if replaces else "IGNORE"
            db.execute(f"INSERT OR {how} INTO notes VALUES (?,?,?)", (name, now + keep_s, text))
            return str(db.execute("SELECT text FROM notes WHERE name=?", (name,)).get)

        return await self._thread.write(do)

    async def setting(self, name: str, first: str) -> str:
        """Return what is kept under a name."""

        def do(db: apsw.Connection) -> str:
            db.execute("INSERT OR IGNORE INTO settings VALUES (?,?)", (name, first))
            return str(db.execute("SELECT value FROM settings WHERE name=?", (name,)).get)

        return await self._thread.write(do)

    async def set_setting(self, name: str, value: str) -> None:
        """Keep a value under a name."""
        await self._thread.write(lambda db: db.execute("INSERT OR REPLACE INTO settings VALUES (?,?)", (name, value)))

    async def wait_for_change(self, timeout_s: float) -> bool:
        """Look a few times a second whether anyone has written."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while True:
            foreign = await self._thread.read(lambda db: int(db.pragma("data_version")))
            now, before = (foreign, self._own_writes), self._seen
            self._seen = now
            if now != (before or (foreign, 0)):
                return True
            left_s = until - loop.time()
            if left_s <= 0:
                return False
            await asyncio.sleep(min(POLL_S, left_s))

    async def close(self) -> None:
        """End the thread."""
        await self._thread.close()

    async def _write(self, do: Callable[[apsw.Connection], T]) -> T:
        """Change records; this process's own changes do not show in ``data_version``."""
        answer = await self._thread.write(do)
        self._own_writes += 1
        return answer

    async def _one(self, asked: str, *values: str) -> JobRecord | None:
        row: Row | None = await self._thread.read(lambda db: db.execute(asked, values).get)
        return None if row is None else read(row)

    async def _records(self, asked: str, *values: str | float | None) -> list[JobRecord]:
        """Return the records of a query; again where some cannot be read, which are set aside."""
        while True:
            rows: list[Row] = await self._thread.read(lambda db: db.execute(asked, values).fetchall())
            found, bad = read_each(rows)
            if not bad:
                return found
            await self._write(lambda db: set_all_aside(db, bad))  # noqa: B023 - done at once
