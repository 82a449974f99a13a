"""Tiers over the foreign protocols, of a model whose default one draws from text without guidance alone."""

import base64
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.tiers.book import TierUse
from lego_serve.gateway.settings import GatewaySettings
from tests.support.gateway.client import file_of, mask_of
from tests.support.gateway.comfyui import Served, memory_storage, served
from tests.support.gateway.runner import FakeRunner
from tests.support.graphs import image_to_image, masked_edit, text_to_image
from tests.support.students.tiers import BOOK

TXT2IMG, IMG2IMG = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
BODY = {"prompt": "a red circle", "steps": 20, "cfg_scale": 4.5, "width": 128, "height": 96, "seed": 7}
IMAGE = {"init_images": [base64.b64encode(file_of(3)).decode()]}


@pytest.fixture
def settings(settings: GatewaySettings) -> GatewaySettings:
    """Requests that name no tier run in turbo."""
    return replace(settings, tiers={"lego-tiny": replace(BOOK, default="turbo")})


@pytest.fixture
async def comfyui(runner: FakeRunner, settings: GatewaySettings, tmp_path: Path) -> AsyncIterator[Served]:
    """A gateway with a store in memory."""
    async with served(runner, settings, memory_storage(tmp_path / "jobs")) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("named", "ran", "evaluations"), [({}, "turbo", 4), ({"tier": "fast"}, "fast", 5), ({"tier": "exact"}, "exact", 20)]
)
async def test_a1111_names_a_tier_in_its_settings_and_hears_which_ran(client, runner, named, ran, evaluations) -> None:
    """With the evaluations there were, beside the steps that would ask for it again; nothing where all of them ran."""
    runner.stats = {"latents": replace(TaskStats(0.25, 1.5), tier=TierUse(ran, evaluations, 20))}
    answer = await client.post(TXT2IMG, json=BODY | {"override_settings": named})
    assert answer.status_code == 200, answer.text
    assert (runner.jobs[0].inputs["tier"], runner.jobs[0].tier.tier) == (ran, ran)
    info = json.loads(answer.json()["info"])
    wanted = {} if ran == "exact" else {"Tier": ran, "Evaluations": str(evaluations)}
    assert (info["steps"], info["extra_generation_params"]) == (20, wanted)
    read = (await client.post("/sdapi/v1/png-info", json={"image": answer.json()["images"][0]})).json()["parameters"]
    assert {name: read[name] for name in ("Tier", "Evaluations") if name in read} == wanted


async def test_a1111_hears_what_it_can_send_where_the_default_is_not_tuned_for_it(client, runner) -> None:
    """In its own words; with them it runs."""
    for route, body in ((TXT2IMG, BODY | {"negative_prompt": "blue"}), (IMG2IMG, BODY | IMAGE)):
        answer = await client.post(route, json=body)
        assert answer.status_code == 400
        assert "send another `override_settings.tier`, such as exact" in answer.json()["detail"]
        assert runner.jobs == []
        assert (await client.post(route, json=body | {"override_settings": {"tier": "exact"}})).status_code == 200
        assert runner.jobs.pop().inputs["tier"] == "exact"


@pytest.mark.parametrize("value", ["best", 4, ["fast"]])
async def test_a1111_is_refused_a_tier_that_there_is_none_of(client, runner, value: object) -> None:
    """By the name of its own field."""
    answer = await client.post(TXT2IMG, json=BODY | {"override_settings": {"tier": value}})
    assert (answer.status_code, runner.jobs) == (400, [])
    assert "`override_settings.tier`" in answer.json()["detail"]


@pytest.mark.parametrize("graph", [image_to_image(), masked_edit(), text_to_image(steps=12)])
async def test_a_graph_names_no_tier_and_runs_all_steps_where_the_default_is_not_tuned_for_it(
    comfyui: Served, runner: FakeRunner, graph: dict, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so; sent again it is the same prompt, and another of its id is refused as ever."""
    await comfyui.client.post("/upload/image", files={"image": ("photo.png", mask_of(), "image/png")})
    body = {"prompt": graph, "prompt_id": "11111111-1111-4111-8111-111111111111"}
    with caplog.at_level(logging.INFO, logger="lego_serve.gateway"):
        first, second = [await comfyui.client.post("/prompt", json=body) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 200), first.text + second.text
    assert first.json()["prompt_id"] == second.json()["prompt_id"]
    await comfyui.ended(first.json()["prompt_id"])
    assert [job.inputs["tier"] for job in runner.jobs] == ["exact"]
    assert len([record for record in caplog.records if "runs all of its steps" in record.message]) == 1
    other = await comfyui.client.post("/prompt", json=body | {"prompt": text_to_image(seed=9)})
    assert other.status_code != 200


async def test_a_graph_that_the_default_is_tuned_for_runs_in_it(comfyui: Served, runner: FakeRunner) -> None:
    """As any request of the Images API does."""
    graph = text_to_image()
    for node in graph.values():
        if node["class_type"] == "CLIPTextEncode" and node["inputs"]["text"] == "blurry":
            node["inputs"]["text"] = ""
    accepted = await comfyui.client.post("/prompt", json={"prompt": graph})
    assert accepted.status_code == 200, accepted.text
    await comfyui.ended(accepted.json()["prompt_id"])
    assert [job.inputs["tier"] for job in runner.jobs] == ["turbo"]
