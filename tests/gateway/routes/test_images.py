"""POST /v1/images/generations: what it honours, what it refuses, and how."""

import base64
import io
import json
from dataclasses import replace

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lego_serve.errors import CapacityError, DeadlineExceeded, NodeError, NodeUnavailable, RequestError
from tests.support.gateway.client import refused
from tests.support.gateway.runner import tiny_workflows

URL = "/v1/images/generations"


async def test_an_image_comes_back_with_its_seed(client, runner) -> None:
    """The answer is OpenAI's shape, the PNG has the size asked for and carries the seed."""
    answer = await client.post(URL, json={"prompt": "a red circle", "size": "96x128", "seed": 5, "n": 2})
    body = answer.json()
    assert answer.status_code == 200
    assert [d["seed"] for d in body["data"]] == [5, 6]
    image = Image.open(io.BytesIO(base64.b64decode(body["data"][1]["b64_json"])))
    assert (image.size, image.format, image.info["seed"]) == ((96, 128), "PNG", "6")
    assert body["size"] == "96x128"
    assert body["lego"] == {
        "job_id": runner.jobs[0].id, "seed": 5, "queue_s": 0.25, "nodes": {"latents": 1.5}, "cache_hits": 1,
        "steps_redone": 0,
    }  # fmt: skip


async def test_without_a_seed_the_server_draws_one_and_tells_it(client, runner) -> None:
    """The seed answered is the one the job ran with."""
    body = (await client.post(URL, json={"prompt": "a"})).json()
    assert body["lego"]["seed"] == runner.jobs[0].inputs["seed"]


@pytest.mark.parametrize(
    ("quality", "steps", "made"),
    [
        ("low", 8, "low"), ("medium", 20, "medium"), ("high", 28, "high"), ("xhigh", 40, "xhigh"), ("max", 50, "max"),
        ("standard", 20, "medium"), ("hd", 28, "high"), ("auto", 20, "medium"), (None, 20, "medium"),
    ],
)  # fmt: skip
async def test_quality_is_a_number_of_steps(client, runner, quality, steps, made) -> None:
    """Of today's words and of dall-e's; auto is the workflow's default, and the answer names what was made."""
    answer = await client.post(URL, json={"prompt": "a", "quality": quality})
    assert runner.jobs[0].inputs["steps"] == steps
    assert answer.json()["quality"] == made


async def test_a_quality_goes_as_far_as_the_workflow_allows(client, runner) -> None:
    """It is a wish, where steps that are named are a demand; and named steps win."""
    workflow = runner.workflows["lego-tiny"]
    few = replace(workflow, inputs=dict(workflow.inputs) | {"steps": replace(workflow.inputs["steps"], max=30)})
    runner.more = {"lego-tiny": few}
    answer = await client.post(URL, json={"prompt": "a", "quality": "max"})
    assert (runner.jobs[0].inputs["steps"], answer.json()["quality"]) == (30, "high")
    assert (await client.post(URL, json={"prompt": "a", "num_inference_steps": 31})).status_code == 400
    await client.post(URL, json={"prompt": "a", "quality": "max", "num_inference_steps": 3})
    assert runner.jobs[1].inputs["steps"] == 3


async def test_what_tools_send_by_default_is_taken(client, runner) -> None:
    """A seed of -1 is a random one; what has no effect here is accepted where it asks for nothing else."""
    defaults = {"seed": -1, "style": "vivid", "output_compression": 100, "input_fidelity": "low", "n": 10}
    seeds = set()
    for number in range(2):
        answer = await client.post(URL, json={"prompt": "a", **defaults})
        assert answer.status_code == 200, answer.text
        seeds.add(runner.jobs[number].inputs["seed"])
    assert len(seeds) == 2


async def test_an_alias_stands_for_its_workflow(client, runner) -> None:
    """In requests and where a model is looked up; other names are unknown still."""
    assert (await client.post(URL, json={"prompt": "a", "model": "gpt-image-1"})).status_code == 200
    assert runner.jobs[0].workflow == "lego-tiny"
    assert (await client.get("/v1/models/gpt-image-1")).json()["id"] == "lego-tiny"
    assert (await client.post(URL, json={"prompt": "a", "model": "gpt-image-9"})).status_code == 404


@pytest.mark.parametrize(
    ("field", "words"),
    [("input_fidelity", "low"), ("background", "opaque or auto"), ("response_format", "b64_json or url")],
)
async def test_a_refusal_lists_what_is_accepted_and_nothing_else(client, field, words) -> None:
    """Words that the API knows and this server refuses are not offered."""
    error = (await client.post(URL, json={"prompt": "a", field: "ultra"})).json()["error"]
    assert error["message"] == f"`{field}` must be {words}."


async def test_a_nodes_complaint_names_the_requests_field(client, runner) -> None:
    """What the workflow calls `steps` is num_inference_steps here."""
    runner.error = RequestError("`steps` are too many.", param="steps")
    error = (await client.post(URL, json={"prompt": "a"})).json()["error"]
    assert (error["param"], error["message"]) == ("num_inference_steps", "`num_inference_steps` are too many.")


@pytest.mark.parametrize("form", ["webp", "jpeg", "png"])
async def test_the_output_format_is_honoured(client, form) -> None:
    """The bytes are of the format asked for."""
    body = (await client.post(URL, json={"prompt": "a", "output_format": form})).json()
    assert Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"]))).format == form.upper()


async def test_a_deadline_is_on_the_runners_clock(client, runner) -> None:
    """deadline_ms counts from now."""
    await client.post(URL, json={"prompt": "a", "deadline_ms": 1500})
    assert runner.jobs[0].deadline_s == 101.5


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"prompt": "a", "model": "nope"}, 404, "model_not_found", "model"),
        ({"prompt": ""}, 400, "invalid_value", "prompt"),
        ({"prompt": "   "}, 400, "invalid_value", "prompt"),
        ({"prompt": "a" * 32_001}, 400, "invalid_value", "prompt"),
        ({}, 400, "missing", "prompt"),
        ({"prompt": 7}, 400, "invalid_type", "prompt"),
        ({"prompt": "a", "n": 0}, 400, "out_of_range", "n"),
        ({"prompt": "a", "n": 11}, 400, "out_of_range", "n"),
        ({"prompt": "a", "n": "2"}, 400, "invalid_type", "n"),
        ({"prompt": "a", "n": True}, 400, "invalid_type", "n"),
        ({"prompt": "a", "seed": -2}, 400, "out_of_range", "seed"),
        ({"prompt": "a", "seed": 2**32}, 400, "out_of_range", "seed"),
        ({"prompt": "a", "size": "big"}, 400, "invalid_value", "size"),
        ({"prompt": "a", "size": "100x128"}, 400, "invalid_value", "size"),
        ({"prompt": "a", "size": "80x128"}, 400, "out_of_range", "size"),
        ({"prompt": "a", "size": "1024x1024"}, 400, "out_of_range", "size"),
        ({"prompt": "a", "num_inference_steps": 101}, 400, "out_of_range", "num_inference_steps"),
        ({"prompt": "a", "guidance_scale": 50}, 400, "out_of_range", "guidance_scale"),
        (b'{"prompt": "a", "guidance_scale": NaN}', 400, "invalid_value", "guidance_scale"),
        (b'{"prompt": "a", "guidance_scale": 1e999}', 400, "invalid_value", "guidance_scale"),
        (b'{"prompt": "\\ud800"}', 400, "invalid_json", None),
        (b'{"prompt": "a"', 400, "invalid_json", None),
        (b"[" * 100_000, 400, "invalid_json", None),
        (b"\xff\xfe", 400, "invalid_json", None),
        (b"", 400, "invalid_json", None),
        (b'{"prompt": "a", "n": 1, "prompt": "b"}', 400, "duplicate_field", "prompt"),
        (b'{"prompt": "a", "n": 1, "n": 1}', 400, "duplicate_field", "n"),
        (
            b'{"prompt": "a", "lora": [{"name": "x"}, {"name": "y", "scale": 1, "scale": 2}]}',
            400,
            "duplicate_field",
            "lora[1].scale",
        ),
        (b'{"prompt": "a", "svg": {"<i>": {"b": 1, "b": 2}}}', 400, "duplicate_field", None),
        ([], 400, "invalid_json", None),
        ({"prompt": "a", "promt": "b"}, 400, "unsupported_parameter", "promt"),
        ({"prompt": "a", "style": "baroque"}, 400, "invalid_value", "style"),
        ({"prompt": "a", "input_fidelity": "high"}, 400, "unsupported_parameter", "input_fidelity"),
        ({"prompt": "a", "output_compression": 90}, 400, "invalid_value", "output_compression"),
        ({"prompt": "a", "response_format": "url"}, 400, "unsupported_parameter", "response_format"),
        ({"prompt": "a", "background": "transparent"}, 400, "unsupported_parameter", "background"),
        ({"prompt": "a", "stream": "yes"}, 400, "invalid_type", "stream"),
        ({"prompt": "a", "partial_images": 2}, 400, "invalid_value", "partial_images"),
        ({"prompt": "a", "stream": True, "partial_images": 4}, 400, "out_of_range", "partial_images"),
        ({"prompt": "a", "stream_progress": True}, 400, "invalid_value", "stream_progress"),
        ({"prompt": "a", "sampler": "heun"}, 400, "invalid_value", "sampler"),
        ({"prompt": "a", "guidance_start": 0.8, "guidance_end": 0.2}, 400, "invalid_value", "guidance_start"),
        ({"prompt": "a", "guidance_start": 2}, 400, "out_of_range", "guidance_start"),
        ({"prompt": "a", "output_format": "gif"}, 400, "invalid_value", "output_format"),
    ],
)
async def test_bad_input_is_refused_by_name(client, runner, body, status, code, param) -> None:
    """Each mistake has its status, code and field, and no job is made of it."""
    await refused(client, body, status, code, param)
    assert runner.jobs == []


async def test_fields_without_effect_are_accepted(client) -> None:
    """user, safety_identifier and moderation change nothing."""
    body = {"prompt": "a", "user": "u", "safety_identifier": "s", "moderation": "low", "background": "auto"}
    assert (await client.post(URL, json=body)).status_code == 200


async def test_an_oversize_body_is_413(client) -> None:
    """Announced or not, a body above the limit is refused."""
    headers = {"content-type": "application/json"}

    async def chunks():
        for _ in range(30):
            yield b"x" * 10_000

    for content in (b"x" * 300_000, chunks()):
        answer = await client.post(URL, content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


async def test_another_media_type_is_415(client) -> None:
    """Only JSON is read here."""
    answer = await client.post(URL, content=b"prompt=a", headers={"content-type": "text/plain"})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (NodeError("broken"), 500, "false"),
        (DeadlineExceeded("late"), 504, "false"),
        (CapacityError("full", retry_after_s=3), 429, None),
        (NodeUnavailable("soon"), 503, None),
    ],
)
async def test_errors_say_whether_to_retry(client, runner, error, status, retry) -> None:
    """x-should-retry is false where a retry cannot help; 429 and 503 say when to come back."""
    runner.error = error
    answer = await client.post(URL, json={"prompt": "a"})
    assert (answer.status_code, answer.headers.get("x-should-retry")) == (status, retry)
    assert answer.headers.get("retry-after") == {429: "3", 503: "2"}.get(status)
    assert answer.headers.get("retry-after-ms") == {429: "3000", 503: "2000"}.get(status)


async def test_too_many_pending_jobs_are_429(client, runner) -> None:
    """Above the cap a request is refused at once and leaves nothing behind."""
    runner.in_flight = 2
    assert (await client.post(URL, json={"prompt": "a"})).status_code == 429
    assert runner.jobs == []


LEAVES = st.none() | st.booleans() | st.floats() | st.text() | st.integers()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_whatever_makes_a_5xx(app, body) -> None:
    """Any JSON value (and JSON's non-finite cousins) is answered below 500."""
    import asyncio

    async def post() -> int:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
            content = json.dumps(body).encode()
            return (await client.post(URL, content=content, headers={"content-type": "application/json"})).status_code

    assert asyncio.run(post()) < 500


@pytest.mark.parametrize("model", tiny_workflows())
async def test_every_model_of_the_list_generates_by_a_prompt_alone(client, runner, model) -> None:
    """A workflow that needs an image, adapters or ControlNets leads to the one without."""
    answer = await client.post(URL, json={"model": model, "prompt": "a", "n": 1, "size": "128x128"})
    assert answer.status_code == 200, answer.text
    assert runner.jobs[0].workflow == "lego-tiny"


async def test_a_model_for_edits_generates_with_adapters(client, runner) -> None:
    """It leads to the sibling that takes them; one without a sibling needs its image."""
    body = {"model": "lego-tiny-edit-lora", "prompt": "a", "lora": [{"name": "a"}]}
    assert (await client.post(URL, json=body)).status_code == 200
    assert runner.jobs[0].workflow == "lego-tiny-lora"
    runner.more = {"own": replace(runner.workflows["lego-tiny-edit"], name="own")}
    await refused(client, {"model": "own", "prompt": "a"}, 400, "missing", "edit")
