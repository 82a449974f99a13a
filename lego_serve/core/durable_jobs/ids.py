"""The ids of durable jobs, which sort by their time, and the order in which the jobs of a tenant are claimed."""

from lego_serve.core.durable_jobs.record import PRIORITIES, JobRecord

RANDOM_BYTES = 10
ID_LENGTH = len("job_") + 32
NO_DEADLINE = "9" * 13


def job_id(now: float, chance: bytes) -> str:
    """Return ``job_`` and a UUID of version 7 in hex: the milliseconds of ``now``, then ten random bytes."""
    if len(chance) != RANDOM_BYTES:
        raise ValueError(f"a job id takes {RANDOM_BYTES} random bytes, not {len(chance)}")
    number = int(now * 1000) << 80 | int.from_bytes(chance)
    number = number & ~(0xF << 76) | 0x7 << 76  # the version
    number = number & ~(0x3 << 62) | 0x2 << 62  # the variant
    return f"job_{number:032x}"


def is_job_id(text: str) -> bool:
    """Whether this could be the id of a durable job; safe as the name of a folder if so."""
    return len(text) == ID_LENGTH and text.startswith("job_") and all(c in "0123456789abcdef" for c in text[4:])


def made_at(job_id: str) -> float:
    """Return the time in a job's id, in seconds."""
    return int(job_id[4:16], 16) / 1000


def claim_order(record: JobRecord) -> str:
    """Return a text that sorts a tenant's jobs as they are claimed: priority, deadline, age.

    It ends with the tenant, a tab and the id.  One text rather than columns, because a sorted set of Redis compares
    nothing else.  Whose job is next, ``turns`` says.
    """
    deadline = record.request.deadline_at
    due = NO_DEADLINE if deadline is None else f"{_milliseconds(deadline):013d}"
    rank = PRIORITIES[-1] - record.request.priority
    return f"{rank:02d}{due}{_milliseconds(record.created_at):013d}{record.request.tenant}\t{record.id}"


def _milliseconds(seconds: float) -> int:
    return max(0, min(int(seconds * 1000), int(NO_DEADLINE)))
