"""What is refused uses nothing of a tenant's quotas, on every route, for whatever reason; what was done stays used."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.core.jobs.forecast import Forecast
from lego_serve.core.rate_limits import TenantLimits
from lego_serve.errors import DeadlineExceeded, JobCancelled, LegoError, NodeError, NodeUnavailable, RequestError
from lego_serve.errors import StoreUnavailable as Away
from lego_serve.gateway.settings import GatewaySettings, LimitSettings
from tests.support.gateway.client import file_of, mask_of
from tests.support.gateway.durable import Cluster, Gateway
from tests.support.graphs import text_to_image

GENERATIONS, EDITS, JOBS = "/v1/images/generations", "/v1/images/edits", "/v1/jobs"
BODY = {"prompt": "a"}
ONE = {"idempotency-key": "one"}
Post = Callable[[httpx2.AsyncClient], Awaitable[httpx2.Response]]


@dataclass(frozen=True)
class Ask:
    """One way to ask for images, with a deadline where the route takes one."""

    path: str
    body: dict[str, object]
    headers: dict[str, str]
    is_form: bool = False

    async def __call__(self, client: httpx2.AsyncClient) -> httpx2.Response:
        if not self.is_form:
            return await client.post(self.path, json=self.body, headers=self.headers)
        files = {"image": file_of(), "mask": mask_of()}
        return await client.post(self.path, data=self.body, files=files, headers=self.headers)


LATE = BODY | {"deadline_ms": 5000}
WAITING = {  # whose client waits, and may name a deadline
    "generation": Ask(GENERATIONS, LATE, {}),
    "stream": Ask(GENERATIONS, LATE | {"stream": True}, {}),
    "edit": Ask(EDITS, LATE, {}, is_form=True),
    "keyed generation": Ask(GENERATIONS, LATE, ONE),
    "keyed stream": Ask(GENERATIONS, LATE | {"stream": True}, ONE),
    "keyed edit": Ask(EDITS, LATE, ONE, is_form=True),
}
A1111 = {"txt2img": Ask("/sdapi/v1/txt2img", BODY | {"width": 128, "height": 128}, {})}
STORED = {
    "keyed generation": WAITING["keyed generation"],
    "keyed edit": WAITING["keyed edit"],
    "job": Ask(JOBS, {"endpoint": GENERATIONS, "body": BODY}, {}),
    "keyed job": Ask(JOBS, {"endpoint": GENERATIONS, "body": BODY}, ONE),
    "later": Ask(GENERATIONS, BODY, {"prefer": "respond-async"}),
    "prompt": Ask("/prompt", {"prompt": text_to_image(), "prompt_id": "one"}, {}),
}


def each(asks: dict[str, Ask]) -> pytest.MarkDecorator:
    """Run a test for each way to ask."""
    return pytest.mark.parametrize("ask", asks.values(), ids=asks)


@pytest.fixture(autouse=True)
def quotas_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes back while a test runs, however long that takes."""
    monkeypatch.setattr("throttled.utils.now_mono_f", lambda: 1000.0)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """One with durable jobs and all protocols, where a request a minute may be made, and work without end."""
    limits = LimitSettings(TenantLimits(requests=1, work=10**12))
    settings = GatewaySettings("lego-tiny", limits=limits, compat=frozenset({"a1111", "comfyui"}))
    async with Cluster(tmp_path, settings).gateway() as gateway:
        yield gateway


async def is_unused(gateway: Gateway) -> bool:
    """Whether the one request of the minute may still be made; it is made then."""
    answer = await gateway.client.post(GENERATIONS, json=BODY | {"seed": 7})
    assert answer.status_code in (200, 429), answer.text
    return answer.status_code == 200


@each(WAITING)
async def test_a_request_that_would_be_late(gateway: Gateway, ask: Post) -> None:
    """It is told at once, with a key as without; nothing of it is kept, neither as a job nor as an answer."""
    gateway.runner.expects = Forecast(eta_s=112.5, place=3, retry_after_s=7.4)
    for _ in range(2):
        refused = await ask(gateway.client)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "would_be_late")
        assert refused.headers.get("x-ratelimit-remaining-requests", "1") == "1"
    assert (await gateway.client.get(JOBS)).json()["data"] == []
    assert [job for job, _ in gateway.runner.withdrawn] == gateway.runner.offered
    gateway.runner.expects = Forecast(eta_s=101.0, place=0)
    answer = await ask(gateway.client)
    assert (answer.status_code, "idempotency-replayed" in answer.headers) == (200, False)
    assert len(gateway.runner.withdrawn) == len(gateway.runner.offered)
    assert not await is_unused(gateway)


@each({name: ask for name, ask in WAITING.items() if not ask.headers} | A1111)
async def test_a_request_that_a_model_cannot_do(gateway: Gateway, ask: Post) -> None:
    """Which only a node finds out, after it was charged; and one that no node can be reached for."""
    for error in (RequestError("It is too long.", code="prompt_too_long"), NodeUnavailable("All have died.")):
        gateway.runner.error = error
        refused = await ask(gateway.client)
        assert refused.status_code == error.status, refused.text
    gateway.runner.error = None
    assert await is_unused(gateway)


@each(STORED)
async def test_a_job_that_cannot_be_kept(gateway: Gateway, ask: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store goes away when all else is done."""

    async def put(record: JobRecord, *more: object) -> JobRecord:
        raise Away("The job store does not answer; try again later.")

    store = gateway.app.state.jobs.store
    with monkeypatch.context() as patch:
        patch.setattr(store, "put", put)
        refused = await ask(gateway.client)
    assert refused.status_code == 503, refused.text
    assert refused.headers.get("x-ratelimit-remaining-requests", "1") == "1"
    assert await is_unused(gateway)


@each({name: ask for name, ask in STORED.items() if name in ("keyed generation", "keyed job", "prompt")})
async def test_a_request_that_another_one_of_its_key_came_before(
    tmp_path: Path, ask: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it was read: it was not there when this one looked, and is when it is to be kept."""
    limits = LimitSettings(TenantLimits(requests=2))
    settings = GatewaySettings("lego-tiny", limits=limits, compat=frozenset({"comfyui"}))
    async with Cluster(tmp_path, settings).gateway() as gateway:

        async def find(tenant: str, key: str) -> None:
            return None

        monkeypatch.setattr(gateway.app.state.jobs.store, "find", find)
        answers = [await ask(gateway.client) for _ in range(2)]
        assert [answer.status_code for answer in answers] in ([200, 200], [202, 202])
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "1"]
        assert (await is_unused(gateway), await is_unused(gateway)) == (True, False)


@each({name: WAITING[name] for name in ("keyed generation", "keyed stream")})
async def test_an_accepted_job_counts_whatever_becomes_of_it(gateway: Gateway, ask: Post) -> None:
    """As one that nobody waits for does: it goes on where its client is told that the server stops."""
    gateway.runner.error = RequestError("It is too long.", code="prompt_too_long")
    assert "prompt_too_long" in (await ask(gateway.client)).text
    gateway.runner.error = None
    assert not await is_unused(gateway)


@each({"generation": Ask(GENERATIONS, BODY, {}), "edit": Ask(EDITS, BODY, {}, is_form=True)} | A1111)
@pytest.mark.parametrize("error", [DeadlineExceeded("Late."), JobCancelled("Gone."), NodeError("It failed.")])
async def test_work_that_was_done_in_vain_stays_used(gateway: Gateway, ask: Post, error: LegoError) -> None:
    """Or whoever leaves before the end would have all the steps until then for nothing."""
    gateway.runner.error = error
    assert (await ask(gateway.client)).status_code == error.status
    assert not await is_unused(gateway)
