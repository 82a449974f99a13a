"""No more jobs are pending than the limit allows, however the requests for them arrive."""

import asyncio
import io

import httpx2
import numpy as np
import pytest
from PIL import Image

from lego_serve.core.scheduling.admission import AdmissionLimits, Applicant
from lego_serve.errors import CapacityError, NodeError
from lego_serve.gateway.admission import Admission
from lego_serve.metrics import Metrics

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
        refused, _ = await asyncio.wait(burst, timeout=0.5)
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
    await asyncio.wait(burst, timeout=0.5)
    assert len(runner.waiting) == LIMIT
    runner.gate.set()
    assert (await statuses(burst)).count(429) == len(paths) - LIMIT


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
