"""Values that no request for an image may have, in JSON and in forms: each is refused by its field."""

import json

import httpx2
import pytest
from fastapi import FastAPI

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import error_of, file_of
from tests.support.gateway.refusals import check_refusal, in_flight, nothing_left
from tests.support.gateway.runner import FakeRunner

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
SIZES = [
    "0x0", "-8x128", "128x-128", "1x1", "8x8", "100x100", "128", "128x", "x128", "128xabc", "128x128x128", "x",
    "99999x128", "100000x128", "1e2x128", "0128x128", "128X128", "128 x128", " 128x128", "128x128\n", "128*128",
    "128\u00d7128", "1\u06628x128", "\uff11\uff12\uff18x128", "16x512", "96x512", "512x96", "4096x4096", "None", "0",
]  # fmt: skip
MODELS = [
    "nope", "lego-tiny#x", "../lego-tiny", "lego-tiny/", "lego-tiny\0", "LEGO-TINY", "lego\u2010tiny", " lego-tiny",
    "\u217cego-tiny", "lego-tiny.backbone", "file:///etc/passwd", "hf://a/b", "lego-tiny@main", "tiny",
]  # fmt: skip
VALUES: list[tuple[str, object, str]] = [  # in JSON and in forms alike
    ("num_inference_steps", 0, "out_of_range"),
    ("num_inference_steps", 101, "out_of_range"),
    ("num_inference_steps", 10**9, "out_of_range"),
    ("num_inference_steps", 4.5, "invalid_type"),
    ("n", 0, "out_of_range"),
    ("n", -1, "out_of_range"),
    ("n", 11, "out_of_range"),
    ("n", 10**6, "out_of_range"),
    ("guidance_scale", -1, "out_of_range"),
    ("guidance_scale", 21, "out_of_range"),
    ("guidance_scale", 101, "out_of_range"),
    ("seed", -2, "out_of_range"),
    ("seed", 2**32, "out_of_range"),
    ("seed", 1.5, "invalid_type"),
    ("deadline_ms", 0, "out_of_range"),
    ("deadline_ms", -1, "out_of_range"),
    ("deadline_ms", 3_600_001, "out_of_range"),
    ("deadline_ms", 1.5, "invalid_type"),
    ("sampler", "heun", "invalid_value"),
    ("sampler", "os.system", "invalid_value"),
    ("sampler", "../x", "invalid_value"),
    ("sampler", "x" * 65, "invalid_value"),
    ("guidance_start", -0.1, "out_of_range"),
    ("guidance_end", 1.1, "out_of_range"),
    ("output_format", "gif", "invalid_value"),
    ("output_format", "svg", "invalid_value"),
    ("output_format", "../", "invalid_value"),
    ("output_format", "PNG", "invalid_value"),
    ("output_format", "image/png", "invalid_value"),
    ("output_compression", 101, "out_of_range"),
    ("output_compression", -1, "out_of_range"),
    ("response_format", "b64", "invalid_value"),
    ("quality", "ultra", "invalid_value"),
    ("background", "red", "invalid_value"),
    ("moderation", "none", "invalid_value"),
    ("negative_prompt", "x" * 32_001, "invalid_value"),
    ("prompt", "x" * 32_001, "invalid_value"),
    ("prompt", "\u00a0", "invalid_value"),
    ("prompt", "\t\n ", "invalid_value"),
    ("prompt", "<lora:a:1>", "adapter_in_prompt"),
    ("partial_images", 4, "out_of_range"),
]
JSON_ONLY: list[tuple[str, object, str]] = [
    ("size", 128, "invalid_type"),
    ("size", [128, 128], "invalid_type"),
    ("size", "", "invalid_value"),
    ("model", "", "invalid_value"),
    ("model", ["lego-tiny"], "invalid_type"),
    ("model", "a" * 257, "invalid_value"),
    ("seed", True, "invalid_type"),
    ("seed", "1", "invalid_type"),
    ("user", 5, "invalid_type"),
    ("strength", 0.5, "unsupported_parameter"),
    ("mask", "x", "unsupported_parameter"),
    ("precision", "fp4", "unsupported_parameter"),
    ("priority", 1, "unsupported_parameter"),
    ("callback", "http://169.254.169.254/", "unsupported_parameter"),
    ("webhook", {"url": "http://169.254.169.254/"}, "unsupported_parameter"),
]
FORM_ONLY: list[tuple[str, object, str]] = [
    ("strength", "0", "out_of_range"),
    ("strength", "-0.1", "out_of_range"),
    ("strength", "1.01", "out_of_range"),
    ("strength", "inf", "invalid_value"),
    ("strength", "NaN", "invalid_value"),
    ("strength", "1e999", "invalid_value"),
    ("strength", "0.5f", "invalid_type"),
    ("strength", "\u0660.5", "invalid_type"),
    ("guidance_scale", "NaN", "invalid_value"),
    ("n", "true", "invalid_type"),
    ("n", "\u0661", "invalid_type"),
    ("n", "0x2", "invalid_type"),
    ("seed", "nan", "invalid_type"),
    ("seed", "1" * 5000, "invalid_type"),
    ("mask_dilation", "-1", "out_of_range"),
    ("mask_dilation", "100000", "out_of_range"),
    ("mask_feather", "1e9", "invalid_type"),
    ("reuse", "x", "invalid_value"),
    ("caption", "c", "invalid_value"),
    ("template", "../x", "invalid_value"),
    ("template", "x" * 300, "invalid_value"),
    ("stream", "maybe", "invalid_type"),
    ("__proto__", "1", "unsupported_parameter"),
    ("cache_hit", "true", "unsupported_parameter"),
    ("webhook", "http://169.254.169.254/", "unsupported_parameter"),
]


@pytest.fixture(scope="module")
def runner() -> FakeRunner:
    """The runner behind one gateway for all cases, which leave nothing."""
    return FakeRunner()


@pytest.fixture(scope="module")
def app(runner: FakeRunner) -> FastAPI:
    """The application."""
    settings = GatewaySettings("lego-tiny", max_pending_jobs=2, max_body_bytes=200_000)
    return create_app(runner, runner, settings, Metrics())


async def refused(
    client: httpx2.AsyncClient, app: FastAPI, runner: FakeRunner, url: str, field: str, value: object, code: str
) -> None:
    """Send one wrong value, and compare the refusal."""
    given = {"prompt": "a", field: value}
    with nothing_left(app, runner):
        if url == GENERATIONS:
            headers = {"content-type": "application/json"}
            answer = await client.post(url, content=json.dumps(given).encode(), headers=headers)
        else:
            answer = await client.post(url, files={"image": file_of()}, data={k: str(v) for k, v in given.items()})
        status = 404 if code == "model_not_found" else 400
        assert error_of(answer) == (status, code, field), answer.text
        check_refusal(answer, value if isinstance(value, str) and len(value) > 20 else "")
    assert await in_flight(client) == 0


@pytest.mark.parametrize("url", [GENERATIONS, EDITS])
@pytest.mark.parametrize(("field", "value", "code"), VALUES)
async def test_a_value_out_of_bounds_is_refused(client, app, runner, url, field, value, code) -> None:
    """In both forms of a request."""
    await refused(client, app, runner, url, field, value, code)


@pytest.mark.parametrize(("field", "value", "code"), JSON_ONLY)
async def test_a_value_that_only_json_can_have_is_refused(client, app, runner, field, value, code) -> None:
    """Of another type, or of a field that generations do not have."""
    await refused(client, app, runner, GENERATIONS, field, value, code)


@pytest.mark.parametrize(("field", "value", "code"), FORM_ONLY)
async def test_a_value_that_only_a_form_can_have_is_refused(client, app, runner, field, value, code) -> None:
    """Text that is no number, or of a field that edits alone have."""
    await refused(client, app, runner, EDITS, field, value, code)


@pytest.mark.parametrize("url", [GENERATIONS, EDITS])
@pytest.mark.parametrize("size", SIZES)
async def test_a_size_that_is_none_is_refused(client, app, runner, url, size) -> None:
    """In other digits or signs, with more or less than two sides, too small, too large, or between two multiples."""
    given = {"prompt": "a", "size": size}
    with nothing_left(app, runner):
        if url == GENERATIONS:
            answer = await client.post(url, json=given)
        else:
            answer = await client.post(url, files={"image": file_of()}, data=given)
        assert error_of(answer) in ((400, "invalid_value", "size"), (400, "out_of_range", "size"))
        check_refusal(answer)


@pytest.mark.parametrize("url", [GENERATIONS, EDITS])
@pytest.mark.parametrize("model", MODELS)
async def test_a_model_is_a_name_of_the_list(client, app, runner, url, model) -> None:
    """No path, no address, no deployment, and no letter that looks like another."""
    await refused(client, app, runner, url, "model", model, "model_not_found")
