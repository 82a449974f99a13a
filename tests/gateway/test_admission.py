"""No more jobs are pending than the limit allows, however the requests for them arrive."""

import asyncio
import io
from dataclasses import replace
from hashlib import sha256

import httpx2
import numpy as np
import pytest
from PIL import Image

from lego_serve.core.jobs.forecast import Forecast
from lego_serve.core.scheduling.admission import AdmissionLimits, Applicant, DeadlineLimits
from lego_serve.errors import CapacityError, NodeError
from lego_serve.gateway.admission import Admission
from lego_serve.gateway.settings import ApiKey
from lego_serve.metrics import Metrics
from tests.support.gateway.client import another

IMAGES, TEMPLATES = "/v1/images/generations", "/v1/templates"
LIMIT = 2  # of the gateway under test
ONE = Applicant()


def png() -> bytes:
    """An image file."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((96, 128, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


async def statuses(requests: list[asyncio.Future[httpx2.Response]]) -> list[int]:
    """The statuses of requests, in order of size."""
    return sorted([(await request).status_code for request in requests])


async def refused_of(burst: list[asyncio.Future[httpx2.Response]], count: int) -> list[asyncio.Future[httpx2.Response]]:
    """The requests of a burst that are answered, once so many are and no more come."""
    async with asyncio.timeout(60):
        while sum(request.done() for request in burst) < count:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    return [request for request in burst if request.done()]


async def in_flight(client: httpx2.AsyncClient) -> str:
    """The gauge's sample of jobs in flight."""
    page = (await client.get("/metrics")).text
    return next(line for line in page.splitlines() if line.startswith("lego_serve_requests_in_flight "))


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_burst_of_requests_is_admitted_up_to_the_limit(client, runner, is_streamed: bool) -> None:
    """Of ten that arrive together two run and eight are refused; afterwards both places are free again."""
    for _ in range(2):
        runner.gate, already_run = asyncio.Event(), len(runner.jobs)
        body = {"prompt": "a", "stream": is_streamed}
        burst = [asyncio.ensure_future(client.post(IMAGES, json=body)) for _ in range(10)]
        refused = await refused_of(burst, 10 - LIMIT)
        assert {request.result().status_code for request in refused} == {429}
        assert (len(refused), len(runner.waiting)) == (10 - LIMIT, LIMIT)
        runner.gate.set()
        assert await statuses(burst) == [200] * LIMIT + [429] * (10 - LIMIT)
        assert len(runner.jobs) - already_run == LIMIT
        assert await in_flight(client) == "lego_serve_requests_in_flight 0.0"


async def test_a_burst_of_warmings_and_images_shares_the_limit(client, runner) -> None:
    """A place is reserved before a template's size is asked for, so that nothing slips past the check."""
    template = (await client.post(TEMPLATES, files={"image": png()})).json()["id"]
    runner.gate = asyncio.Event()
    paths = [f"{TEMPLATES}/{template}/warm", IMAGES] * 4
    burst = [asyncio.ensure_future(client.post(path, json={"prompt": "a"} if path == IMAGES else {})) for path in paths]
    await refused_of(burst, len(paths) - LIMIT)
    assert len(runner.waiting) == LIMIT
    runner.gate.set()
    assert (await statuses(burst)).count(429) == len(paths) - LIMIT


async def test_jobs_of_all_kinds_share_the_limit(client, runner) -> None:
    """Generations, streams, edits, warming, and registrations that warm: two run, whatever comes first."""
    template = (await client.post(TEMPLATES, files={"image": png()})).json()["id"]
    runner.gate, image = asyncio.Event(), {"image": png()}
    burst = []
    for _ in range(30):
        burst += [
            client.post("/v1/images/edits", data={"prompt": "a"}, files=image),
            client.post(f"{TEMPLATES}/{template}/warm", json={"wait": True}),
            client.post(TEMPLATES, data={"warm": "true"}, files=image),
            client.post(IMAGES, json={"prompt": "a"}),
            client.post(IMAGES, json={"prompt": "a", "stream": True}),
        ]
    requests = [asyncio.ensure_future(request) for request in burst]
    await refused_of(requests, len(requests) - LIMIT)
    assert len(runner.waiting) == LIMIT
    runner.gate.set()
    assert (await statuses(requests)).count(429) >= len(requests) - 2 * LIMIT
    assert await in_flight(client) == "lego_serve_requests_in_flight 0.0"


@pytest.mark.parametrize("error", [NodeError("broken"), ZeroDivisionError("unexpected")])
async def test_a_job_that_fails_frees_its_place(client, runner, error: Exception) -> None:
    """As often as it fails."""
    runner.error = error
    for _ in range(LIMIT + 1):
        assert (await client.post(IMAGES, json={"prompt": "a"})).status_code == 500
    assert await in_flight(client) == "lego_serve_requests_in_flight 0.0"


async def test_what_cannot_be_warmed_for_frees_its_place(client, runner) -> None:
    """A refused request holds nothing, after its place was reserved either."""
    template = (await client.post(TEMPLATES, files={"image": png()})).json()["id"]
    for _ in range(LIMIT + 1):
        assert (await client.post(f"{TEMPLATES}/{template}/warm", json={"steps": 150})).status_code == 400
    assert (await client.post(IMAGES, json={"prompt": "a"})).status_code == 200


def admission_of(runner, max_pending: int) -> Admission:
    """The admission of a gateway with a limit."""
    return Admission(AdmissionLimits(max_pending), runner, Metrics(), lambda: 0.0)


def test_background_work_takes_a_place_only_where_the_server_is_quiet(runner) -> None:
    """Beside one of eight jobs it may run, beside two it may not, and it counts against the bound."""
    admission = admission_of(runner, 8)
    first = admission.reserve(ONE)
    background = admission.reserve_background(ONE)
    assert background is not None
    assert admission.reserve_background(ONE) is None
    for _ in range(6):
        admission.reserve(ONE)
    with pytest.raises(CapacityError) as refused:
        admission.reserve(ONE)
    assert refused.value.retry_after_s == 2.0
    background.release()
    first.release()
    first.release()  # a second time gives no second place
    admission.reserve(ONE)
    admission.reserve(ONE)
    with pytest.raises(CapacityError):
        admission.reserve(ONE)


def test_jobs_that_the_runner_has_from_elsewhere_count(runner) -> None:
    """A runner that is full admits none, whoever gave it its jobs."""
    admission = admission_of(runner, 3)
    runner.in_flight = 3
    with pytest.raises(CapacityError):
        admission.reserve(ONE)
    runner.in_flight = 0
    with admission.reserve(ONE):
        pass


async def test_thousands_that_arrive_at_once_are_admitted_up_to_the_limit(runner, settings) -> None:
    """Three thousand heavy requests, streamed or not, written at once: as many jobs as there are places."""
    roomy = replace(settings, max_pending_jobs=50)
    runner.gate = asyncio.Event()
    body = {"prompt": "a", "size": "256x256", "num_inference_steps": 100}
    async with another(runner, roomy) as client:
        burst = [asyncio.ensure_future(client.post(IMAGES, json=body | {"stream": n % 2 == 0})) for n in range(3000)]
        assert len(await refused_of(burst, 2950)) == 2950
        assert len(runner.waiting) == 50
        runner.gate.set()
        assert await statuses(burst) == [200] * 50 + [429] * 2950
        assert await in_flight(client) == "lego_serve_requests_in_flight 0.0"


async def test_a_job_of_eight_images_is_eight(runner, settings) -> None:
    """With room for twenty images two jobs of eight and four of one run; a larger job than the bound runs alone."""
    roomy = replace(settings, max_pending_jobs=50, max_pending_images=20)
    runner.gate = asyncio.Event()
    async with another(runner, roomy) as client:
        bodies = [{"prompt": "a", "n": n} for n in (8, 8, 8, 1, 1, 1, 1, 1)]
        burst = [asyncio.ensure_future(client.post(IMAGES, json=body)) for body in bodies]
        await refused_of(burst, 2)
        assert [job.inputs["n"] for job in runner.waiting] == [8, 8, 1, 1, 1, 1]
        runner.gate.set()
        await statuses(burst)
    async with another(runner, replace(roomy, max_pending_images=4)) as client:
        assert (await client.post(IMAGES, json={"prompt": "a", "n": 8})).status_code == 200


async def test_one_tenant_cannot_fill_all_places(runner, settings) -> None:
    """Of ninety places a tenant alone gets eight ninths, and another who comes then gets in at once."""
    keys = tuple(ApiKey(sha256(name.encode()).hexdigest(), name, is_admin=False) for name in ("alpha", "beta"))
    shared = replace(settings, keys=keys, max_pending_jobs=90)
    runner.gate = asyncio.Event()
    async with another(runner, shared, "alpha") as client:
        burst = [asyncio.ensure_future(client.post(IMAGES, json={"prompt": "a"})) for _ in range(200)]
        refused = await refused_of(burst, 120)
        assert len(runner.waiting) == 80
        assert {answer.result().json()["error"]["code"] for answer in refused} == {"over_capacity"}
        theirs = {"authorization": "Bearer beta"}
        other = [asyncio.ensure_future(client.post(IMAGES, json={"prompt": "b"}, headers=theirs)) for _ in range(5)]
        async with asyncio.timeout(60):
            while [job.tenant for job in runner.waiting].count("beta") < 5:
                await asyncio.sleep(0.01)
        page = (await client.get("/metrics")).text
        assert 'lego_serve_requests_rejected_total{reason="tenant_share"} 120.0' in page
        runner.gate.set()
        assert await statuses(other) == [200] * 5
        await statuses(burst)


def test_places_of_jobs_that_ended_are_free_for_every_tenant(runner) -> None:
    """After a burst of one tenant nothing of it is left in the counts, whatever became of its jobs."""
    admission = Admission(AdmissionLimits(9, is_shared=True), runner, Metrics())
    for _ in range(3):
        places = [admission.reserve(Applicant("alpha")) for _ in range(8)]
        with pytest.raises(CapacityError):
            admission.reserve(Applicant("alpha"))
        for place in places:
            place.release(is_done=False)


def test_a_refused_client_is_told_when_what_is_pending_will_have_ended(runner) -> None:
    """Four jobs that end one each ten seconds take forty, of the server and of the tenant at its share."""
    clock = [0.0]
    runner.now = lambda: clock[0]
    admission = Admission(AdmissionLimits(4), runner, Metrics(), lambda: 0.0)
    places = [admission.reserve(ONE) for _ in range(4)]
    for _ in range(20):
        clock[0] += 10.0
        places.pop(0).release()
        places.append(admission.reserve(ONE))
    with pytest.raises(CapacityError, match="try again in") as refused:
        admission.reserve(ONE)
    assert refused.value.retry_after_s == pytest.approx(40.0, rel=0.1)


async def test_every_job_ends_at_the_servers_deadline_and_keeps_its_own(client, runner, settings) -> None:
    """Streams, warming and edits too: what a caller names orders work, and the server's bound only ends it."""
    template = (await client.post(TEMPLATES, files={"image": png()})).json()["id"]
    await client.post(IMAGES, json={"prompt": "a"})
    await client.post(IMAGES, json={"prompt": "a", "stream": True})
    await client.post("/v1/images/edits", data={"prompt": "a"}, files={"image": png()})
    await client.post(f"{TEMPLATES}/{template}/warm", json={"wait": True})
    await client.post(IMAGES, json={"prompt": "a", "deadline_ms": 5000})
    ends = [(job.deadline_s, job.latest_s, job.end_s) for job in runner.jobs]
    assert ends == [(None, 700.0, 700.0)] * 4 + [(105.0, 105.0, 105.0)]
    short = replace(settings, deadlines=DeadlineLimits(1.0, 2.0))
    async with another(runner, short) as other:
        await other.post(IMAGES, json={"prompt": "a", "deadline_ms": 5000})
    assert runner.jobs[-1].end_s == 102.0


async def test_who_would_be_late_is_refused_at_once_and_told_when_to_come_again(client, runner) -> None:
    """Only where the request has a deadline; the place it had is free again."""
    runner.expects = Forecast(eta_s=112.5, place=3, retry_after_s=7.4)
    body = {"prompt": "a red circle", "deadline_ms": 5000}
    answer = await client.post("/v1/images/generations", json=body)
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "would_be_late"
    assert answer.headers["retry-after"] == "8"
    assert "3 requests are ahead" in answer.json()["error"]["message"]
    assert runner.jobs == []
    answer = await client.post("/v1/images/generations", json={"prompt": "a red circle"})
    assert answer.status_code == 200
    runner.expects = Forecast(eta_s=101.0, place=0)
    assert (await client.post("/v1/images/generations", json=body)).status_code == 200
    [decision] = [each for each in runner.journal.decisions() if each.kind == "refuse"]
    assert decision.subject == "lego-tiny"


async def test_an_admitted_place_is_given_back_where_the_client_goes_and_kept_where_its_job_runs(
    client, runner
) -> None:
    """Each that asked is withdrawn once at its end: refused, gone, run as an answer or as a stream; none without."""
    body = {"prompt": "a red circle", "deadline_ms": 5000}
    await client.post(IMAGES, json={"prompt": "a red circle"})
    assert runner.offered == runner.withdrawn == []
    for more in ({}, {"stream": True}):
        assert (await client.post(IMAGES, json=body | more)).status_code == 200
    runner.expects = Forecast(eta_s=112.5, place=3, retry_after_s=7.4)
    assert (await client.post(IMAGES, json=body)).status_code == 429
    runner.offer_gate = asyncio.Event()
    gone = asyncio.ensure_future(client.post(IMAGES, json=body))
    async with asyncio.timeout(10):
        while len(runner.offered) < 4:
            await asyncio.sleep(0.01)
    assert len(runner.withdrawn) == 3
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert runner.withdrawn == list(zip(runner.offered, [True, True, False, False], strict=True))
