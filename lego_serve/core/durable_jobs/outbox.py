"""Webhook messages that wait to be sent: a row is written with the end it tells of, and goes when it is delivered."""

from dataclasses import dataclass, replace

from lego_serve.core.durable_jobs.record import JobRecord

# Seconds between a try and the next, as Standard Webhooks advises; the first try is at once.
RETRY_AFTER_S = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
NEVER = 1e12  # when a message that cannot be read is due
JITTER = 0.1  # of the wait, so that a receiver that comes back is not met by all at once


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A message about the end of a job.  ``id`` is its ``webhook-id``, the same in every try."""

    id: str
    job_id: str
    tenant: str
    event: str
    url: str
    happened_at: float
    due_at: float
    tries: int = 0
    traceparent: str | None = None


def rows_of(ended: JobRecord) -> tuple[OutboxRow, ...]:
    """Return the messages that the end of a job calls for."""
    webhook, happened_at = ended.request.webhook, ended.completed_at
    event = f"job.{ended.status}"
    if webhook is None or happened_at is None or (webhook.events and event not in webhook.events):
        return ()
    row = OutboxRow(
        f"msg_{ended.id}_{ended.status}",
        ended.id,
        ended.request.tenant,
        event,
        webhook.url,
        happened_at,
        due_at=happened_at,
        traceparent=ended.request.traceparent,
    )
    return (row,)


def after_failure(row: OutboxRow, now: float, chance: float) -> OutboxRow | None:
    """Return the row to be tried again, or None after the last try.  ``chance`` is a random number from 0 to 1."""
    if row.tries >= len(RETRY_AFTER_S):
        return None
    wait_s = RETRY_AFTER_S[row.tries] * (1 + JITTER * chance)
    return replace(row, due_at=now + wait_s, tries=row.tries + 1)
