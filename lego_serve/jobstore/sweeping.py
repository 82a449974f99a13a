"""What gateways do about jobs with any store: write a decision, release a dead gateway's jobs, sweep what is overdue.

Several gateways may do all of this at once: each write compares versions, so that every change happens once.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass

from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.core.durable_jobs.store import JobStore
from lego_serve.core.durable_jobs.transitions import Change, Forget, overdue
from lego_serve.core.durable_jobs.transitions import release as released
from lego_serve.errors import NotFound

SWEEP_LIMIT = 500  # records in one sweep, so that no gateway is busy with it for long


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep changed: jobs that go round again or failed, that expired, and records that are no more."""

    released: tuple[JobRecord, ...] = ()
    expired: tuple[JobRecord, ...] = ()
    forgotten: tuple[JobRecord, ...] = ()


async def change(store: JobStore, known: JobRecord, decide: Callable[[JobRecord], Change]) -> JobRecord:
    """Decide about a job and write it, again where another write came first; return the record as it is then.

    Begins with the record that the caller knows, which saves a read.  Raises what ``decide`` raises, NotFound where
    the job is forgotten.
    """
    record: JobRecord | None = known
    while record is not None:
        decided = decide(record)
        if await store.write(decided):
            return decided.record
        record = await store.get(known.id)
    raise NotFound(f"Job {known.id} does not exist.", param="id")


async def lost_claims(store: JobStore, owner: str, known: Container[str]) -> tuple[JobRecord, ...]:
    """Return the jobs that an owner has and does not know of: the answer to its claim was lost on the way.

    To be asked after every StoreUnavailable, for as long as the owner lives nobody else would run them.
    """
    return tuple(record for record in await store.owned(owner) if record.id not in known)


async def release(store: JobStore, owner: str) -> tuple[JobRecord, ...]:
    """End an owner's lease at once and free its jobs: whoever saw it die need not wait for the lease."""
    freed = []
    while True:
        for record in await store.owned(owner):
            decided = released(record, owner, await store.now())
            if decided is not None and await store.write(decided):
                freed.append(decided.record)
        if await store.drop_owner(owner):
            return tuple(freed)


async def sweep(store: JobStore, limit: int = SWEEP_LIMIT) -> Swept:
    """Release what lapsed owners had, expire jobs that are out of time, forget those kept long enough."""
    freed: list[JobRecord] = []
    expired: list[JobRecord] = []
    forgotten: list[JobRecord] = []
    for owner in await store.lapsed_owners():
        freed.extend(await release(store, owner))
    for record in await store.due(limit):
        match overdue(record, await store.now()):
            case Forget() if await store.forget(record):
                forgotten.append(record)
            case Change() as decided if await store.write(decided):
                expired.append(decided.record)
    return Swept(tuple(freed), tuple(expired), tuple(forgotten))
