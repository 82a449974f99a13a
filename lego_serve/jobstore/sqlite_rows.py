"""What the sqlite store does with the rows of jobs, each within the transaction that is open."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import apsw

from lego_serve.core.durable_jobs.ids import claim_order
from lego_serve.core.durable_jobs.record import JobRecord, JobStatus
from lego_serve.core.durable_jobs.record_json import BadRecord, record_from_json, record_to_json
from lego_serve.core.durable_jobs.store import NO_FILES, UNREADABLE, Held, JobSize, result_bytes
from lego_serve.core.durable_jobs.transitions import Change, claim
from lego_serve.core.durable_jobs.turns import Standing, next_tenant
from lego_serve.errors import LegoError

Row: TypeAlias = tuple[Any, ...]  # a job's id, its version and its record's text
Fault: TypeAlias = tuple[str, int, LegoError]  # of a row: its id, its version, and what is wrong with its text
log = logging.getLogger("lego_serve.jobs")
# Texts are read as bytes: what is no UTF-8 is then a fault of its own row.
READ = "SELECT id, version, CAST(record AS BLOB) FROM jobs WHERE"
NEXT = f"{READ} tenant=? AND claim_order IS NOT NULL ORDER BY claim_order LIMIT 1"
COLUMNS = "id, tenant, key, status, model, version, owner, claim_order, due_at, record"
INSERT = f"INSERT INTO jobs ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)"
UPDATE = "UPDATE jobs SET status=?,version=?,owner=?,claim_order=?,due_at=?,record=? WHERE id=? AND version=?"
SET_ASIDE = f"""UPDATE jobs SET status='{UNREADABLE}', owner=NULL, claim_order=NULL, due_at=NULL
                WHERE id=? AND version=? AND (status<>'{UNREADABLE}' OR claim_order IS NOT NULL)"""
SIZE_AT_END = """INSERT INTO sizes VALUES (?,?,0,?)
                 ON CONFLICT (id) DO UPDATE SET passing=0, kept=kept+excluded.kept"""


def read(row: Row) -> JobRecord:
    """Return the record of a row.  Raises BadRecord, also for one that is not its row's."""
    job_id, version, text = row
    record = record_from_json(text)
    if (record.id, record.version) != (job_id, version):
        raise BadRecord(f"The record of job {job_id}, version {version}, is {record.id}, version {record.version}.")
    return record


def read_each(rows: Iterable[Row]) -> tuple[list[JobRecord], list[Fault]]:
    """Return the records of the rows that can be read, and the faults of the others."""
    found, bad = list[JobRecord](), list[Fault]()
    for row in rows:
        try:
            found.append(read(row))
        except BadRecord as error:
            bad.append((row[0], row[1], error))
    return found, bad


def set_all_aside(db: apsw.Connection, faults: Iterable[Fault]) -> None:
    """Take jobs that cannot be read out of the way of others."""
    for fault in faults:
        _set_aside(db, *fault)


def _set_aside(db: apsw.Connection, job_id: str, version: int, error: LegoError) -> None:
    """Take a job out of the queue and of all lists, and leave its text for the operator."""
    db.execute(SET_ASIDE, (job_id, version))
    if db.changes() == 1:
        db.execute("DELETE FROM sizes WHERE id=?", (job_id,))
        log.error("job %s cannot be read and is set aside: %s", job_id, error.message)


def held(db: apsw.Connection, tenant: str) -> Held:
    """Return what a tenant has."""
    asked = "SELECT queued+running, stored_bytes FROM tenants WHERE tenant=?"
    return Held(*(db.execute(asked, (tenant,)).get or (0, 0)))


def insert(db: apsw.Connection, record: JobRecord, text: str, size: JobSize) -> None:
    """Add a job, with its text.  Raises ValueError where its id is taken."""
    request = record.request
    row = (record.id, request.tenant, request.key, record.status.value, request.model, record.version)
    try:
        db.execute(INSERT, (*row, record.owner, _order(record), record.due_at, text))
    except apsw.ConstraintError:
        raise ValueError(f"the job id {record.id} is taken") from None
    if size != NO_FILES:
        db.execute("INSERT INTO sizes VALUES (?,?,?,?)", (record.id, request.tenant, size.passing, size.kept))


def update(db: apsw.Connection, change: Change, text: str) -> bool:
    """Set a job, with its text, where it still has the version that was changed."""
    after = change.record
    indexed = (after.status.value, after.version, after.owner, _order(after), after.due_at)
    db.execute(UPDATE, (*indexed, text, after.id, change.before.version))
    if db.changes() != 1:
        return False
    if after.status.has_ended:
        db.execute(SIZE_AT_END, (after.id, after.request.tenant, result_bytes(after)))
    return True


def claim_jobs(
    db: apsw.Connection, owner: str, count: int, weights: Mapping[str, float], now: float
) -> tuple[JobRecord, ...]:
    """Give jobs to an owner, each the first of the tenant that is next."""
    found: list[Row] = db.execute("SELECT tenant, running, turn FROM tenants WHERE queued>0").fetchall()
    waiting = {name: Standing(name, running, turn, weights.get(name, 1.0)) for name, running, turn in found}
    turn = int(db.execute("SELECT max(turn) FROM tenants").get or 0)
    claimed = list[JobRecord]()
    while len(claimed) < count and (tenant := next_tenant(waiting.values())) is not None:
        record = _claim_next(db, tenant.tenant, owner, now)
        if record is None:
            del waiting[tenant.tenant]
            continue
        turn += 1
        claimed.append(record)
        tenant.running, tenant.turn = tenant.running + 1, turn
        db.execute("UPDATE tenants SET turn=? WHERE tenant=?", (turn, tenant.tenant))
    return tuple(claimed)


def _claim_next(db: apsw.Connection, tenant: str, owner: str, now: float) -> JobRecord | None:
    """Give a tenant's first job to an owner; None where it has none that can be read."""
    row: Row | None
    while (row := db.execute(NEXT, (tenant,)).get) is not None:
        try:
            change = claim(read(row), owner, now)
            update(db, change, record_to_json(change.record))
        except LegoError as error:  # such as of a record that is not queued, though its row is
            _set_aside(db, row[0], row[1], error)
        else:
            return change.record
    return None


def _order(record: JobRecord) -> str | None:
    return claim_order(record) if record.status is JobStatus.QUEUED else None
