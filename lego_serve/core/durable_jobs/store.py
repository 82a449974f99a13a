"""The port of the stores of durable jobs, and what may be asked of a list of jobs.

A store compares and sets; it decides nothing.  What becomes of a record is decided by ``transitions``, and written
only where the store still holds the record it was decided about.  The claim alone is decided inside the store, because
whoever is first must have the job in one step; it is ``transitions.claim``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lego_serve.core.durable_jobs.outbox import OutboxRow
from lego_serve.core.durable_jobs.record import JobRecord, JobStatus
from lego_serve.core.durable_jobs.transitions import Change
from lego_serve.core.durable_jobs.turns import NO_WEIGHTS
from lego_serve.errors import CapacityError

MAX_PAGE = 100
QUEUE_FULL_S, STORAGE_FULL_S = 10.0, 60.0  # until a refused submission may fare better
UNREADABLE = "unreadable"  # in place of the status of a record that was set aside


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which of a tenant's jobs to list: after an id, which need not exist any more, newest first unless ascending."""

    tenant: str
    limit: int = 20
    after: str | None = None
    ascending: bool = False
    status: JobStatus | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_PAGE:
            raise ValueError(f"a page has 1 to {MAX_PAGE} jobs, not {self.limit}")

    def matches(self, record: JobRecord) -> bool:
        """Whether a job of this tenant belongs into the list."""
        return (self.status in (None, record.status)) and (self.model in (None, record.request.model))


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs of a list, and whether there are more after them."""

    jobs: tuple[JobRecord, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class JobCounts:
    """How many durable jobs of all tenants wait and run, how many messages about ended ones wait too, and how many
    records were set aside because they cannot be read.
    """

    queued: int = 0
    in_progress: int = 0
    messages: int = 0
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class JobSize:
    """The bytes of a job's files before its end: ``passing`` are removed then, ``kept`` stay as long as its record."""

    passing: int = 0
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """What a tenant has in a store: jobs that have not ended, and bytes of the files of all its jobs."""

    open_jobs: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """What a tenant may have in a store; None is no bound."""

    open_jobs: int | None = None
    stored_bytes: int | None = None

    def check(self, held: Held, size: JobSize = JobSize()) -> None:
        """Raise CapacityError where a tenant may have no job more, or not the files of one of this size.

        The images that open jobs will make are known when they end, and may go beyond the bound until then.
        """
        if self.open_jobs is not None and held.open_jobs >= self.open_jobs:
            raise CapacityError(
                f"{held.open_jobs} of your jobs wait or run already, and {self.open_jobs} is the most; try again when "
                "some have ended.",
                code="queue_full",
                retry_after_s=QUEUE_FULL_S,
            )
        more, most = size.passing + size.kept, self.stored_bytes
        if most is not None and (held.stored_bytes >= most or held.stored_bytes + more > most):
            raise CapacityError(
                f"The files of your jobs take {held.stored_bytes:,} bytes, those of this request {more:,}, and "
                f"{most:,} is the most: delete jobs that you need no more (`DELETE /v1/jobs/ID`), or wait until older "
                "ones are forgotten.",
                code="storage_full",
                retry_after_s=STORAGE_FULL_S,
            )


NO_FILES, ANY_ROOM = JobSize(), Room()


def result_bytes(record: JobRecord) -> int:
    """Return the bytes of the images that a job's record tells of; 0 before its end."""
    images = (record.result or {}).get("images")
    sizes = [each.get("bytes") for each in images if isinstance(each, Mapping)] if isinstance(images, list) else []
    return sum(size for size in sizes if isinstance(size, int))


class JobStore(Protocol):
    """Holds the records of durable jobs for all gateways.

    Every method may raise StoreUnavailable.  What was asked may have been done all the same: who repeats a write then
    finds the record at another version, ended by its own attempt, perhaps, and a claim is found by ``lost_claims``.

    An ``owner`` is one gateway process, under a name that no other process ever had.  It has a lease, which ``claim``
    and ``beat`` renew; whoever finds it lapsed gives the owner's jobs to others (see sweeping.py).

    A record that cannot be read, as of a later version, holds up no other: ``claim``, ``owned``, ``due`` and ``page``
    set it aside, out of the queue and of all lists, and go on.  It stays in the store for the operator, and ``get``,
    ``find`` and ``put`` raise BadRecord about it.
    """

    async def now(self) -> float:
        """Return the seconds on the wall clock that leases are measured by."""
        ...

    async def put(self, record: JobRecord, size: JobSize = NO_FILES, room: Room = ANY_ROOM) -> JobRecord:
        """Keep a new record, queued or already claimed, and return it; or the one that its idempotency key stands for.

        Raises ValueError where the id is taken, and CapacityError where its tenant has no ``room``, in the same step.
        """
        ...

    async def get(self, job_id: str) -> JobRecord | None:
        """Return a record; None where it is unknown or forgotten."""
        ...

    async def find(self, tenant: str, key: str) -> JobRecord | None:
        """Return the job that a tenant's idempotency key stands for; None where it stands for none."""
        ...

    async def page(self, query: JobQuery) -> JobPage:
        """Return jobs of one tenant in the order of their ids."""
        ...

    async def position(self, record: JobRecord) -> int | None:
        """Return how many jobs of its tenant are claimed before this one; None where it is not queued."""
        ...

    async def held(self, tenant: str) -> Held:
        """Return what a tenant has here."""
        ...

    async def counts(self) -> JobCounts:
        """Return how many jobs and messages there are."""
        ...

    async def claim(self, owner: str, count: int, weights: Mapping[str, float] = NO_WEIGHTS) -> tuple[JobRecord, ...]:
        """Give up to ``count`` queued jobs to an owner, and renew its lease.

        Each is the first, in claim order, of the tenant that is next (see turns.py); a tenant without an entry in
        ``weights`` weighs 1.
        """
        ...

    async def write(self, change: Change) -> bool:
        """Set a record and add its outbox rows, in one transaction; False where the record has another version."""
        ...

    async def forget(self, record: JobRecord) -> bool:
        """Remove a record and free its idempotency key; False where it has another version."""
        ...

    async def beat(self, owner: str) -> bool:
        """Renew an owner's lease; False where it had lapsed or was never taken."""
        ...

    async def lapsed_owners(self) -> Sequence[str]:
        """Return the owners whose leases have lapsed."""
        ...

    async def owned(self, owner: str) -> Sequence[JobRecord]:
        """Return the jobs that an owner runs."""
        ...

    async def owned_ids(self, owner: str) -> Sequence[str]:
        """Return the ids of these, which costs less."""
        ...

    async def drop_owner(self, owner: str) -> bool:
        """End an owner's lease; False where it runs jobs."""
        ...

    async def due(self, limit: int) -> Sequence[JobRecord]:
        """Return jobs whose ``due_at`` has come, the earliest first."""
        ...

    async def take_outbox(self, limit: int, hold_s: float) -> Sequence[OutboxRow]:
        """Return messages that are due, the earliest first; for ``hold_s`` nobody else gets them."""
        ...

    async def postpone(self, row: OutboxRow) -> None:
        """Set when a message is tried next."""
        ...

    async def settle(self, row_id: str) -> None:
        """Remove a message: it was delivered, or given up."""
        ...

    async def note(self, name: str, text: str, keep_s: float, *, replaces: bool) -> str:
        """Keep a text under a name for so many seconds and return it; what is kept already, unless it is replaced."""
        ...

    async def setting(self, name: str, first: str) -> str:
        """Return what all gateways keep under a name; where that is nothing yet, keep ``first`` and return it."""
        ...

    async def set_setting(self, name: str, value: str) -> None:
        """Keep a value under a name, in place of what was there."""
        ...

    async def wait_for_change(self, timeout_s: float) -> bool:
        """Wait until a record may have changed since the last call; False where nothing did in that time."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...
