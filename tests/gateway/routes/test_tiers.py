"""The fields `tier` and `tier_floor`: what they run, what they refuse, and what the answer says."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx2
import pytest
from PIL import Image

from lego_serve.core.jobs.forecast import Forecast
from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.tiers.book import TierChoice, TierUse
from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.runner import FakeRunner
from tests.support.gateway.tiers import BOOK

URL = "/v1/images/generations"
LATE, IN_TIME = Forecast(eta_s=112.5, place=3, retry_after_s=7.4), Forecast(eta_s=102.0, place=3)


@pytest.fixture
async def client(runner: FakeRunner, settings: GatewaySettings) -> AsyncIterator[httpx2.AsyncClient]:
    """Of a gateway whose model has two tiers, for 20 steps, and which is crowded with three jobs."""
    tiered = replace(settings, tiers={"lego-tiny": BOOK}, max_pending_jobs=5)
    transport = httpx2.ASGITransport(create_app(runner, runner, tiered, Metrics()), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


async def test_a_tier_reaches_the_job_and_the_answer_says_what_it_saved(client, runner) -> None:
    """By the evaluations that ran, as the replica counted them."""
    use = TierUse("high", 10, 20)
    runner.stats = {"latents": replace(TaskStats(0.25, 1.5), tier=use)}
    answer = await client.post(URL, json={"prompt": "a", "tier": "high"})
    assert runner.jobs[0].tier == TierChoice("high", 0.5)
    assert answer.json()["lego"]["tier"] == {"name": "high", "evaluations": 10, "steps": 20, "saved_ratio": 0.5}


async def test_without_a_tier_all_of_the_work_is_done(client, runner) -> None:
    """In a crowd too, where the request allows nothing else."""
    await client.post(URL, json={"prompt": "a"})
    assert runner.jobs[0].tier == TierChoice("exact")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tier": "best"}, "`tier` must be one of exact, high, balanced, fast, turbo."),
        ({"tier": "turbo"}, "there is exact, high, fast"),
        ({"tier": "high", "num_inference_steps": 21}, "not tuned for 21 steps of euler"),
        ({"tier": "high", "quality": "low"}, "not tuned for 8 steps of euler"),
        ({"tier": "high", "sampler": "dpmpp_2m"}, "not tuned for 20 steps of dpmpp_2m"),
    ],
)
async def test_an_unknown_or_untuned_tier_is_refused_with_those_there_are(client, runner, fields, said) -> None:
    """Nothing runs, and no other tier stands in."""
    answer = await client.post(URL, json={"prompt": "a"} | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "tier")
    assert said in error["message"]
    assert not runner.jobs


@pytest.mark.parametrize(
    ("fields", "forecast", "embedded"),
    [
        ({"tier": "high"}, None, "high"),
        ({"tier": "exact"}, None, "exact"),
        ({}, None, None),
        ({"tier": "high", "tier_floor": "fast", "deadline_ms": 3000}, LATE, "fast"),
    ],
)
async def test_a_png_says_the_tier_that_ran(client, runner, fields, forecast, embedded) -> None:
    """So that the request in it makes this image again, crowd or none; what it allowed is no part of that."""
    runner.expects_of = {} if forecast is None else {"high": forecast}
    answer = await client.post(URL, json={"prompt": "a", "seed": 1, "embed_request": True} | fields)
    png = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
    body = json.loads(png.text["lego_serve"])["body"]
    assert (body.get("tier"), "tier_floor" in body) == (embedded, False)


async def test_an_unknown_floor_is_refused(client, runner) -> None:
    """As any field with a set of values."""
    answer = await client.post(URL, json={"prompt": "a", "tier_floor": "cheap"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tier_floor")
    assert not runner.jobs


async def test_a_model_lists_its_tiers_and_what_they_were_tuned_for(client) -> None:
    """Those of the workflows beside it too."""
    lego = {card["id"]: card["lego"] for card in (await client.get("/v1/models")).json()["data"]}
    fast = {"name": "fast", "sampler": "euler", "steps": 20, "evaluations": 5, "pixels": [96 * 96, 256 * 256]}
    for name in ("lego-tiny", "lego-tiny-edit", "lego-tiny-img2img"):
        assert lego[name]["tiers"] == [fast | {"name": "high", "evaluations": 10}, fast]


async def test_in_a_crowd_a_job_runs_at_its_floor_before_any_is_rejected(client, runner) -> None:
    """The third of five places is still run as asked; the answer of those after it says that they were lowered."""
    runner.gate = asyncio.Event()
    runner.stats = {"latents": replace(TaskStats(0.25, 1.5), tier=TierUse("fast", 5, 20))}
    posts = []
    for _ in range(5):
        posts.append(asyncio.ensure_future(client.post(URL, json={"prompt": "a", "tier_floor": "balanced"})))
        while len(runner.jobs) < len(posts):
            await asyncio.sleep(0)
    assert [job.inputs["tier"] for job in runner.jobs] == ["exact", "exact", "high", "high", "high"]
    rejected = await client.post(URL, json={"prompt": "a", "tier_floor": "balanced"})
    assert rejected.status_code == 429
    runner.gate.set()
    answers = [answer.json()["lego"]["tier"] for answer in await asyncio.gather(*posts)]
    assert ["lowered_from" in tier for tier in answers] == [False, False, True, True, True]
    assert answers[-1]["lowered_from"] == "exact"


@pytest.mark.parametrize("more", [{}, {"stream": True}])
async def test_who_would_be_late_runs_in_a_lower_tier_that_it_allows_and_is_in_time_in(client, runner, more) -> None:
    """Its place is kept as that job's, its work is that tier's, and the answer says what it was lowered from."""
    runner.expects_of = {"exact": LATE, "high": LATE, "fast": IN_TIME}
    runner.stats = {"latents": replace(TaskStats(0.25, 1.5), tier=TierUse("fast", 5, 20))}
    body = {"prompt": "a", "tier_floor": "fast", "deadline_ms": 3000} | more
    answer = await client.post(URL, json=body)
    assert answer.status_code == 200, answer.text
    [job] = runner.jobs
    assert (job.tier, job.inputs["tier"]) == (TierChoice("fast", 0.25, "exact"), "fast")
    assert runner.offered == [job.id, job.id]
    assert '"lowered_from": "exact"' in answer.text.replace('":"', '": "')
    assert not [each for each in runner.journal.decisions() if each.kind == "refuse"]


@pytest.mark.parametrize(("floor", "offers"), [("fast", 2), ("high", 2), ("exact", 1), (None, 1)])
async def test_who_would_be_late_in_every_tier_that_it_allows_is_refused(client, runner, floor, offers) -> None:
    """Once, and told when it would not be; what it does not allow is not tried."""
    later = Forecast(eta_s=105.0, place=2, retry_after_s=2.0)
    runner.expects_of = {"exact": LATE, "high": later, "fast": later}
    answer = await client.post(URL, json={"prompt": "a", "tier_floor": floor, "deadline_ms": 3000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "would_be_late")
    assert answer.headers["retry-after"] == ("2" if offers == 2 else "8")
    assert (len(runner.offered), runner.jobs) == (offers, [])
    assert len([each for each in runner.journal.decisions() if each.kind == "refuse"]) == 1


async def test_who_is_in_time_is_not_lowered(client, runner) -> None:
    """Though it would allow it."""
    runner.expects_of = {"exact": IN_TIME, "high": LATE, "fast": LATE}
    await client.post(URL, json={"prompt": "a", "tier_floor": "fast", "deadline_ms": 3000})
    assert [job.tier for job in runner.jobs] == [TierChoice()]


async def test_a_form_of_an_edit_names_a_tier_too(client, runner) -> None:
    """And is refused in the same words."""
    files = {"image": ("a.png", _png(), "image/png")}
    fields = {"prompt": "a", "tier": "turbo", "model": "lego-tiny"}
    answer = await client.post("/v1/images/edits", data=fields, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tier")


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (128, 128)).save(file, "PNG")
    return file.getvalue()
