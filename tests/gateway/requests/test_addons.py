"""`lora` and `controlnet` of a generation: where they are routed to, what a job gets, and what is refused."""

import base64
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lego_serve.core.addons import AdapterRequest, AdapterStats, ControlNetRequest, ControlNetStats
from lego_serve.core.jobs.job import TaskStats
from lego_serve.errors import InvalidAdapter
from tests.support.gateway.client import refused

URL = "/v1/images/generations"


def image(width: int = 20, height: int = 10, colour: str = "red") -> str:
    """An image as base64 of a PNG."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


NET = {"name": "edges", "image": image()}
LORA = {"name": "stripes"}


@pytest.mark.parametrize(
    ("added", "workflow"),
    [
        ({"lora": [LORA]}, "lego-tiny-lora"),
        ({"controlnet": [NET]}, "lego-tiny-controlnet"),
        ({"lora": [LORA], "controlnet": [NET]}, "lego-tiny-controlnet-lora"),
        ({"lora": [], "controlnet": []}, "lego-tiny"),
        ({"lora": None}, "lego-tiny"),
    ],
)
@pytest.mark.parametrize("model", [None, "lego-tiny"])
async def test_a_request_goes_to_the_workflow_that_takes_what_it_adds(client, runner, added, workflow, model) -> None:
    """Also when the workflow it names takes none of it."""
    answer = await client.post(URL, json={"prompt": "a", "model": model} | added)
    assert answer.status_code == 200, answer.text
    assert runner.jobs[0].workflow == workflow


async def test_the_job_gets_adapters_and_decoded_images(client, runner) -> None:
    """Images come at the size of the image, whether it is given or the workflow's own."""
    lora = [LORA | {"scale": -0.5, "start": 0.25}, {"name": "pastel-r32", "end": 0.5}]
    nets = [NET | {"weight": 0.5}, {"name": "depth", "image": "data:image/png;base64," + image(colour="blue")}]
    for size in ({"size": "96x160"}, {}):
        body = {"prompt": "a", "lora": lora, "controlnet": nets} | size
        assert (await client.post(URL, json=body)).status_code == 200
    inputs = runner.jobs[0].inputs
    assert inputs["lora"] == (AdapterRequest("stripes", -0.5, 0.25), AdapterRequest("pastel-r32", 1.0, 0.0, 0.5))
    edges, depth = inputs["controlnet"]
    assert isinstance(edges, ControlNetRequest)
    assert (edges.name, edges.weight, edges.start, edges.end) == ("edges", 0.5, 0.0, 1.0)
    assert (np.asarray(depth.pixels).shape, np.asarray(depth.pixels)[0, 0].tolist()) == ((160, 96, 3), [0, 0, 255])
    assert np.asarray(runner.jobs[1].inputs["controlnet"][0].pixels).shape == (128, 128, 3)


@pytest.mark.parametrize(
    ("field", "entries", "status", "code", "param"),
    [
        ("lora", [{"name": "../../etc/passwd"}], 400, "invalid_value", "lora[0].name"),
        ("lora", [{"name": "/etc/passwd"}], 400, "invalid_value", "lora[0].name"),
        ("lora", [{"name": "%2e%2e"}], 400, "invalid_value", "lora[0].name"),
        ("lora", [{"name": "a\\b"}], 400, "invalid_value", "lora[0].name"),
        ("lora", [{"name": "a\x00"}], 400, "invalid_value", "lora[0].name"),
        ("lora", [{"name": "file://a"}], 400, "invalid_value", "lora[0].name"),
        ("lora", [{"name": ""}], 400, "invalid_value", "lora[0].name"),
        ("lora", [{"name": "Big"}], 400, "invalid_value", "lora[0].name"),
        ("lora", [{"name": "a" * 65}], 400, "invalid_value", "lora[0].name"),
        ("lora", [{"name": "a" * 300}], 400, "invalid_value", "lora[0].name"),
        ("lora", [{"name": str(i)} for i in range(5)], 400, "too_many", "lora"),
        ("lora", [{"name": "b"}, LORA, LORA], 400, "duplicate_name", "lora[2].name"),
        ("lora", [LORA, {"name": "b", "scale": 1e9}], 400, "out_of_range", "lora[1].scale"),
        ("lora", [LORA | {"scale": -11}], 400, "out_of_range", "lora[0].scale"),
        ("lora", [LORA | {"scale": "1"}], 400, "invalid_type", "lora[0].scale"),
        ("lora", [LORA | {"start": 0.5, "end": 0.5}], 400, "out_of_range", "lora[0].start"),
        ("lora", [LORA | {"start": -1}], 400, "out_of_range", "lora[0].start"),
        ("lora", [LORA | {"end": 2}], 400, "out_of_range", "lora[0].start"),
        ("lora", [LORA | {"path": "x"}], 400, "unsupported_parameter", "lora[0].path"),
        ("lora", [{"scale": 1}], 400, "missing", "lora[0].name"),
        ("lora", "stripes", 400, "invalid_type", "lora"),
        ("lora", ["stripes"], 400, "invalid_type", "lora[0]"),
        ("controlnet", [{"name": "edges"}], 400, "missing", "controlnet[0].image"),
        ("controlnet", [NET, NET], 400, "duplicate_name", "controlnet[1].name"),
        ("controlnet", [NET | {"name": "other"}], 404, "controlnet_not_found", "controlnet[0].name"),
        ("controlnet", [NET | {"name": "../a"}], 400, "invalid_value", "controlnet[0].name"),
        ("controlnet", [NET | {"weight": 11}], 400, "out_of_range", "controlnet[0].weight"),
        ("controlnet", [NET | {"start": 0.9, "end": 0.1}], 400, "out_of_range", "controlnet[0].start"),
        ("controlnet", [NET | {"image": "#"}], 400, "invalid_image", "controlnet[0].image"),
        ("controlnet", [NET | {"image": "é"}], 400, "invalid_image", "controlnet[0].image"),
        ("controlnet", [NET | {"image": "aGVsbG8="}], 400, "invalid_image", "controlnet[0].image"),
        ("controlnet", [NET | {"image": ""}], 400, "invalid_image", "controlnet[0].image"),
        (
            "controlnet",
            [NET, NET | {"name": "depth", "image": "aGVsbG8="}],
            400,
            "invalid_image",
            "controlnet[1].image",
        ),
    ],
)
async def test_what_cannot_be_is_refused_by_name(client, runner, field, entries, status, code, param) -> None:
    """Before any job is made, and nothing of the request comes back."""
    await refused(client, {"prompt": "a", field: entries}, status, code, param)
    assert runner.jobs == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
async def test_a_scale_that_is_no_number_is_refused(client, runner, number) -> None:
    """However JSON's strangers are written."""
    body = json.dumps({"prompt": "a", "lora": [LORA | {"scale": math.pi}]}).replace(str(math.pi), number)
    answer = await client.post(URL, content=body.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert runner.jobs == []


async def test_a_workflow_that_takes_none_refuses(client, runner) -> None:
    """A named workflow without a sibling that takes it."""
    runner.more = {"own": replace(runner.workflows["lego-tiny-edit-lora"], name="own")}
    body = {"prompt": "a", "model": "own", "controlnet": [NET]}
    await refused(client, body, 400, "unsupported_parameter", "controlnet")


async def test_a_workflow_that_takes_adapters_needs_them(client, runner) -> None:
    """One that is named without any, and has no sibling to do without, says what is missing."""
    runner.more = {"own": replace(runner.workflows["lego-tiny-lora"], name="own")}
    await refused(client, {"prompt": "a", "model": "own"}, 400, "missing", "lora")


@pytest.mark.parametrize(
    ("model", "added"),
    [
        ("lego-tiny-lora", {"lora": [LORA], "controlnet": [NET]}),
        ("lego-tiny-controlnet", {"lora": [LORA], "controlnet": [NET]}),
        ("lego-tiny-controlnet-lora", {"lora": [LORA], "controlnet": [NET]}),
    ],
)
async def test_a_workflow_that_takes_one_leads_to_the_one_that_takes_both(client, runner, model, added) -> None:
    """Whichever of them the request names."""
    answer = await client.post(URL, json={"prompt": "a", "model": model} | added)
    assert answer.status_code == 200, answer.text
    assert runner.jobs[0].workflow == "lego-tiny-controlnet-lora"


@pytest.mark.parametrize(
    ("model", "added", "workflow"),
    [
        ("lego-tiny-lora", {"controlnet": [NET]}, "lego-tiny-controlnet"),
        ("lego-tiny-controlnet", {"lora": [LORA]}, "lego-tiny-lora"),
        ("lego-tiny-edit-lora", {"controlnet": [NET]}, "lego-tiny-controlnet"),
    ],
)
async def test_a_named_workflow_leads_to_the_sibling_of_what_is_given(client, runner, model, added, workflow) -> None:
    """What it takes besides, and is not given, is left out."""
    answer = await client.post(URL, json={"prompt": "a", "model": model} | added)
    assert answer.status_code == 200, answer.text
    assert runner.jobs[0].workflow == workflow


@pytest.mark.parametrize(
    ("added", "missing"), [({"controlnet": [NET]}, "lora"), ({"lora": [LORA]}, "controlnet"), ({}, "lora")]
)
async def test_what_a_workflow_without_siblings_needs_is_needed(client, runner, added, missing) -> None:
    """The workflow of both says what is missing, rather than that the other is not taken."""
    runner.more = {"own": replace(runner.workflows["lego-tiny-controlnet-lora"], name="own")}
    answer = await client.post(URL, json={"prompt": "a", "model": "own"} | added)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "missing")
    assert error["param"] == missing or not added


async def message(client, body: dict) -> str:
    """What an error says."""
    return (await client.post(URL, json=body)).json()["error"]["message"]


async def test_an_unknown_name_is_repeated_with_the_nearest_there_is(client) -> None:
    """As far as it is a plain word; with all of a few where none is near."""
    net = {"prompt": "a", "controlnet": [NET | {"name": "egdes"}]}
    assert await message(client, net) == "There is no ControlNet egdes; did you mean edges?"
    net["controlnet"][0]["name"] = "zzz"
    assert await message(client, net) == "There is no ControlNet zzz; there is depth, edges."
    answer = await message(client, {"prompt": "a", "model": "lego-tini"})
    assert answer == "There is no model lego-tini; did you mean lego-tiny?"
    answer = await message(client, {"prompt": "a", "model": "<b>lego-tiny"})
    assert answer == "There is no model of this name; GET /v1/models lists them."


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("lora[stripes]", "lora[1].name"),
        ("lora[gone]", "lora"),
        ("controlnet[edges].image", "controlnet[0].image"),
        ("steps", "num_inference_steps"),
        (None, None),
    ],
)
async def test_a_nodes_complaint_about_one_of_several_says_which(client, runner, told, shown) -> None:
    """Nodes know an entry by its name, callers by its place."""
    runner.error = InvalidAdapter("It is damaged.", param=told)
    body = {"prompt": "a", "lora": [{"name": "pastel"}, LORA], "controlnet": [NET]}
    await refused(client, body, 400, "invalid_adapter", shown)


async def test_the_answer_says_in_how_many_steps_each_was_at_work(client, runner) -> None:
    """None where a range covers no step, which is no error."""
    idle = AdapterStats("stripes", 1.0, hit=True, steps_active=0)
    net = ControlNetStats("edges", "colocated", ((1.0, 2.0),), 1, hit=False, load_s=0.25, bytes=100)
    runner.stats = {"latents": TaskStats(adapters=(idle,), controlnets=(net,))}
    lora = [LORA | {"start": 0.98}]
    lego = (await client.post(URL, json={"prompt": "a", "lora": lora, "controlnet": [NET]})).json()["lego"]
    assert lego["adapters"][0]["steps_active"] == 0
    assert lego["controlnets"] == [
        {
            "name": "edges", "placement": "colocated", "cache": "miss", "load_s": 0.25, "bytes": 100,
            "steps_active": 1, "ran": [[1.0, 2.0]],
        }
    ]  # fmt: skip


async def test_the_answer_names_the_parts_of_a_file_that_are_not_used(client, runner) -> None:
    """Where there are any."""
    partial = AdapterStats("pastel", 1.0, hit=True, passed_over=("text_encoder_3 (T5) (layers: 24)",))
    runner.stats = {"latents": TaskStats(adapters=(AdapterStats("stripes", 1.0, hit=True), partial))}
    lego = (await client.post(URL, json={"prompt": "a", "lora": [LORA]})).json()["lego"]
    whole, partly = lego["adapters"]
    assert "passed_over" not in whole
    assert partly["passed_over"] == ["text_encoder_3 (T5) (layers: 24)"]


async def test_the_answer_counts_the_steps_that_two_replicas_took(client, runner) -> None:
    """Where there were any."""
    for steps, said in ((7, 7), (0, None)):
        runner.stats = {"latents": TaskStats(steps_split=steps)}
        lego = (await client.post(URL, json={"prompt": "a"})).json()["lego"]
        assert lego.get("steps_split") == said
