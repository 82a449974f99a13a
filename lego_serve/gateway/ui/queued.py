"""Durable jobs that wait in the store for a gateway to take them: no gateway's history has them yet."""

import asyncio
from typing import Any

from lego_serve.core.durable_jobs.record import JobRecord, JobStatus
from lego_serve.core.durable_jobs.store import JobQuery
from lego_serve.errors import LegoError
from lego_serve.gateway.context import Context
from lego_serve.gateway.queue.asked import Asked, asked_of

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
        waiting = [query.tenant for query, page in zip(queries, pages, strict=True) if page.jobs]
        every = await asyncio.gather(*(jobs.etas_s(tenant) for tenant in waiting))
    except LegoError:
        return []
    etas_s = {job_id: eta_s for etas_s in every for job_id, eta_s in etas_s.items()}
    workflows = context.runner.workflows
    return [
        _row(record, asked_of(record.request, workflows.get(record.request.workflow)), etas_s.get(record.id), now)
        for page in pages
        for record in page.jobs
    ]


def _row(record: JobRecord, asked: Asked, eta_s: float | None, now: float) -> dict[str, Any]:
    request = record.request
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
        "steps": asked.steps,
        "eta_s": None if eta_s is None else round(eta_s, 2),
        "replica": None,
        "size": f"{asked.width}x{asked.height}" if asked.width and asked.height else "",
        "n": asked.n,
        "target_s": None,
        "target_by": "",
        "flags": ["queued"],
        "message": "",
        "gateway": "",
    }
