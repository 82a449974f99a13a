"""The text of a webhook message and its headers, as Standard Webhooks defines them.

A message is thin: it says that a job ended and how, and where to read the rest with a key.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

from lego_serve.core.durable_jobs.outbox import OutboxRow

TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


def message_text(row: OutboxRow, base_url: str | None) -> str:
    """Return the body of a message, the same in every try."""
    happened_at = datetime.fromtimestamp(row.happened_at, UTC).isoformat(timespec="milliseconds")
    job = f"{base_url or ''}/v1/jobs/{row.job_id}"
    urls = {"self": job, "events": f"{job}/events", "result": f"{job}/result", "cancel": f"{job}/cancel"}
    data = {"id": row.job_id, "status": row.event.removeprefix("job."), "urls": urls}
    message = {"type": row.event, "timestamp": happened_at.replace("+00:00", "Z"), "data": data}
    return json.dumps(message, separators=(",", ":"))


def message_headers(row: OutboxRow, text: str, secrets: Sequence[str], now: float) -> dict[str, str]:
    """Return the headers of one try, signed with every secret."""
    sent_at = datetime.fromtimestamp(now, UTC)  # UTC, because the library takes any other zone's hours for UTC's
    signatures = [Webhook(secret).sign(row.id, sent_at, text) for secret in secrets]
    headers = {
        "content-type": "application/json",
        "user-agent": "lego-serve",
        "webhook-id": row.id,
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
    if row.traceparent is not None and TRACEPARENT.fullmatch(row.traceparent):
        headers["traceparent"] = row.traceparent
    return headers
