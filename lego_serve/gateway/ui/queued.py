"""Durable jobs that wait in the store for a gateway to take them: no gateway's history has them yet."""

import asyncio
from typing import Any

from lego_serve.core.durable_jobs.record import JobRecord, JobStatus
from lego_serve.core.durable_jobs.store import JobQuery
from lego_serve.errors import LegoError
from lego_serve.gateway.context import Context

MOST_TENANTS = 20
MOST_EACH = 50


async def queued_rows(context: Context, now: float) -> list[dict[str, Any]]:
    """Return them as rows, of every tenant; none where the store does not answer."""
    jobs = context.jobs
    if jobs is None:
        return []
    tenants = sorted({key.tenant for key in context.settings.keys} or {"default"})[:MOST_TENANTS]
    queries = [JobQuery(tenant, limit=MOST_EACH, ascending=True, status=JobStatus.QUEUED) for tenant in tenants]
    try:
        pages = await asyncio.gather(*(jobs.page(query) for query in queries))
    except LegoError:
        return []
    return [_row(record, now) for page in pages for record in page.jobs]


def _row(record: JobRecord, now: float) -> dict[str, Any]:
    request, inputs = record.request, record.request.inputs
    width, height, n = (inputs.get(name) for name in ("width", "height", "n"))
    age_s = round(max(0.0, now - record.created_at), 3)
    return {
        "id": record.id,
        "state": "waiting",
        "outcome": "",
        "workflow": request.workflow,
        "tenant": request.tenant,
        "created": round(record.created_at, 3),
        "age_s": age_s,
        "waited_s": age_s,
        "step": 0,
        "steps": inputs.get("steps") if isinstance(inputs.get("steps"), int) else 0,
        "eta_s": None,
        "replica": None,
        "size": f"{width}x{height}" if width and height else "",
        "n": n if isinstance(n, int) else 1,
        "target_s": None,
        "target_by": "",
        "flags": ["queued"],
        "message": "",
        "gateway": "",
    }
