"""A tier on a checkpoint over HTTP: what reaches the job, what is refused, and how a model lists it."""

import base64
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from PIL import Image

from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.tiers.book import TierChoice, TierUse
from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.runner import FakeRunner
from tests.support.students.tiers import BOOK

URL = "/v1/images/generations"


def png() -> bytes:
    """An image of 128 x 128."""
    file = io.BytesIO()
    Image.new("RGB", (128, 128)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
async def client(runner: FakeRunner, settings: GatewaySettings) -> AsyncIterator[httpx2.AsyncClient]:
    """Of a gateway whose model has a tier on a checkpoint, for 20 steps."""
    tiered = replace(settings, tiers={"lego-tiny": BOOK})
    transport = httpx2.ASGITransport(create_app(runner, runner, tiered, Metrics()), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


async def test_it_is_asked_for_by_its_name_and_the_answer_names_it(client, runner) -> None:
    """With the steps of the model and any guidance, in the place of which its own runs."""
    runner.stats = {"latents": replace(TaskStats(0.25, 1.5), tier=TierUse("turbo", 4, 20))}
    answer = await client.post(URL, json={"prompt": "a", "tier": "turbo", "guidance_scale": 7})
    assert runner.jobs[0].tier == TierChoice("turbo", 0.1)
    tier = {"name": "turbo", "evaluations": 4, "steps": 20, "saved_ratio": 0.8}
    assert answer.json()["lego"]["tier"] == tier


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lora": [{"name": "a"}]}, "adapters"),
        ({"controlnet": [{"name": "edges", "image": base64.b64encode(png()).decode()}]}, "ControlNets"),
        ({"negative_prompt": "blue"}, "a negative prompt"),
        ({"guidance_end": 0.5}, "guidance in a part of the steps"),
    ],
)
async def test_what_it_was_not_tuned_with_is_refused(client, runner, fields: dict[str, Any], said: str) -> None:
    """Before anything runs; the same request without the tier runs."""
    answer = await client.post(URL, json={"prompt": "a", "tier": "turbo"} | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "tier", "no_such_tier")
    assert error["message"].startswith(f"Tier turbo runs other weights, which were not tuned with {said}; ")
    assert not runner.jobs
    assert (await client.post(URL, json={"prompt": "a"} | fields)).status_code == 200


@pytest.mark.parametrize(("mask", "said"), [(False, "images to start from"), (True, "edits")])
async def test_an_edit_cannot_have_it(client, runner, mask: bool, said: str) -> None:
    """Its template's activations are of other weights, and the student never began at a later step."""
    files = {"image": ("a.png", png(), "image/png")} | ({"mask": ("m.png", png(), "image/png")} if mask else {})
    answer = await client.post("/v1/images/edits", data={"prompt": "a", "tier": "turbo"}, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tier")
    assert f"not tuned with {said}" in answer.json()["error"]["message"]
    assert not runner.jobs


async def test_a_model_lists_it_with_its_guidance(client) -> None:
    """Only where it can be asked for: not beside edits."""
    lego = {card["id"]: card["lego"] for card in (await client.get("/v1/models")).json()["data"]}
    fast = {"name": "fast", "sampler": "euler", "steps": 20, "evaluations": 5, "pixels": [96 * 96, 256 * 256]}
    assert lego["lego-tiny"]["tiers"] == [fast, fast | {"name": "turbo", "evaluations": 4, "guidance": 1.0}]
    for name in ("lego-tiny-edit", "lego-tiny-img2img"):
        assert lego[name]["tiers"] == [fast]
