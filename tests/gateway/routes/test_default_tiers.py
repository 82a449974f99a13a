"""A model's default tier that is not tuned for a request: the error says what to send, and with it the request runs."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx2
import pytest

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import file_of, mask_of
from tests.support.gateway.runner import FakeRunner
from tests.support.students.tiers import BOOK

TEMPLATES, SAID = "/v1/templates", "It is the tier of requests that name none: send another `tier`, such as exact."


@pytest.fixture
async def client(runner: FakeRunner, settings: GatewaySettings) -> AsyncIterator[httpx2.AsyncClient]:
    """Of a gateway whose requests run in turbo, which draws from text alone, where they name no tier."""
    tiered = replace(settings, tiers={"lego-tiny": replace(BOOK, default="turbo")}, max_pending_jobs=9)
    transport = httpx2.ASGITransport(create_app(runner, runner, tiered, Metrics()), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


def refused(answer: httpx2.Response) -> bool:
    """Whether it was for its tier, and said what can be sent."""
    error = answer.json()["error"]
    return (answer.status_code, error["param"]) == (400, "tier") and error["message"].endswith(SAID)


async def test_a_request_for_images_may_name_another(client, runner) -> None:
    """One that names a tier itself needs no such advice."""
    edit = {"image": ("a.png", file_of(3), "image/png"), "mask": ("m.png", mask_of(), "image/png")}
    assert refused(await client.post("/v1/images/generations", json={"prompt": "a", "negative_prompt": "b"}))
    assert refused(await client.post("/v1/images/edits", data={"prompt": "a"}, files=edit))
    named = await client.post("/v1/images/generations", json={"prompt": "a", "negative_prompt": "b", "tier": "turbo"})
    assert named.status_code == 400
    assert SAID not in named.text
    assert (await client.post("/v1/images/edits", data={"prompt": "a", "tier": "exact"}, files=edit)).status_code == 200
    assert [job.tier.tier for job in runner.jobs] == ["exact"]


async def test_a_template_is_registered_and_warmed_for_edits_of_a_tier(client, runner) -> None:
    """It is asked for in the form; without it nothing is registered, and a later warming may name another."""
    image = {"image": ("a.png", file_of(3), "image/png")}
    assert refused(await client.post(TEMPLATES, files=image))
    assert (await client.get(TEMPLATES)).json()["data"] == []
    made = await client.post(TEMPLATES, data={"tier": "exact", "warm": "true"}, files=image)
    assert made.status_code == 201, made.text
    card = made.json()
    assert card["bytes_predicted"] > 0
    await asyncio.sleep(0)
    assert [job.inputs["tier"] for job in runner.jobs] == ["exact"]
    assert refused(await client.post(f"{TEMPLATES}/{card['id']}/warm", json={"wait": True}))
    warmed = await client.post(f"{TEMPLATES}/{card['id']}/warm", json={"wait": True, "tier": "fast"})
    assert warmed.status_code == 200, warmed.text
    assert (runner.jobs[-1].inputs["tier"], runner.jobs[-1].tier.share) == ("fast", 0.25)
    assert warmed.json()["bytes_predicted"] < card["bytes_predicted"]


async def test_a_pin_beside_templates_of_a_default_that_is_gone_counts_them(client, runner, settings) -> None:
    """They were registered before the default was what it is, and may be read in all steps still."""
    before = httpx2.ASGITransport(create_app(runner, runner, settings, Metrics()), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=before, base_url="http://gateway") as other:
        old = await other.post(TEMPLATES, data={"pin": "true"}, files={"image": ("a.png", file_of(3), "image/png")})
        assert old.status_code == 201, old.text
    form = {"pin": "true", "tier": "exact"}
    made = await client.post(TEMPLATES, data=form, files={"image": ("b.png", file_of(4), "image/png")})
    assert (made.status_code, made.json()["error"]["code"]) == (409, "pins_full")
    assert "Your pinned templates of this model take 96000 bytes and this one 96000" in made.json()["error"]["message"]
    listed = {card["id"]: card["bytes_predicted"] for card in (await client.get(TEMPLATES)).json()["data"]}
    assert listed[old.json()["id"]] is None
