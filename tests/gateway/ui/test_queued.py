"""Durable jobs that wait in the store are rows as well."""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

from lego_serve.core.durable_jobs.record import JobRecord, JobRequest, JobStatus
from lego_serve.core.durable_jobs.store import JobPage, JobQuery
from lego_serve.errors import StoreUnavailable
from lego_serve.gateway.settings import ApiKey, GatewaySettings
from lego_serve.gateway.ui.queued import queued_rows
from tests.support.gateway.runner import FakeRunner

BODY = {"prompt": "a secret", "size": "128x96", "num_inference_steps": 20, "n": 2}
INPUTS = {"body": BODY, "files": {}}
REQUEST = JobRequest("/v1/images/generations", "lego-tiny", "lego-tiny", INPUTS, seed=3, tenant="shop")
RECORD = JobRecord("job_1", REQUEST, created_at=90.0, queued_until=1000.0, keep_s=60.0)


class FakeJobs:
    """A store of one job of each tenant."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[JobQuery] = []

    async def page(self, query: JobQuery) -> JobPage:
        """The tenant's job."""
        self.asked.append(query)
        if self.error is not None:
            raise self.error
        job = replace(RECORD, id=f"job_{query.tenant}", request=replace(REQUEST, tenant=query.tenant))
        return JobPage((job,), has_more=False)

    async def etas_s(self, tenant: str) -> Mapping[str, float]:
        """Known of the shop's alone."""
        return {"job_shop": 7.251} if tenant == "shop" else {}


def context_of(jobs: FakeJobs | None, *tenants: str):
    """What the rows are made of."""
    keys = tuple(ApiKey(tenant, tenant, is_admin=False) for tenant in tenants)
    return SimpleNamespace(jobs=jobs, settings=GatewaySettings("lego-tiny", keys), runner=FakeRunner())


async def test_queued_jobs_of_every_tenant_are_rows() -> None:
    """With how long they wait and are expected to take, and without a word of their prompts."""
    jobs = FakeJobs()
    rows = await queued_rows(context_of(jobs, "shop", "press", "shop"), now=100.0)
    assert [(row["tenant"], row["state"], row["waited_s"]) for row in rows] == [
        ("press", "waiting", 10.0),
        ("shop", "waiting", 10.0),
    ]
    assert (rows[0]["size"], rows[0]["steps"], rows[0]["n"], rows[0]["flags"]) == ("128x96", 20, 2, ["queued"])
    assert [row["eta_s"] for row in rows] == [None, 7.25]
    assert "secret" not in str(rows)
    assert {query.status for query in jobs.asked} == {JobStatus.QUEUED}


async def test_a_store_that_does_not_answer_hides_nothing_else() -> None:
    """Its jobs are missing, the page stands."""
    assert await queued_rows(context_of(FakeJobs(StoreUnavailable("Not now."))), now=100.0) == []
    assert await queued_rows(context_of(None), now=100.0) == []
