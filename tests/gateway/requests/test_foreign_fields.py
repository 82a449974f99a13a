"""Fields of vLLM-Omni's and SGLang's image APIs: aliases where they mean what ours mean."""

import pytest

from lego_serve.workflow_files import built_in_workflows
from tests.support.gateway.client import error_of, file_of

URL = "/v1/images/generations"
DEFAULTS = {
    "enhance_prompt": False, "generator_device": "cuda", "extra_params": {}, "enable_teacache": False,
    "output_quality": "default", "vae_use_slicing": False, "vae_use_tiling": False,
}  # fmt: skip


async def test_width_and_height_are_a_size(client, runner) -> None:
    """Also beside the same `size`, or one that leaves it to the server."""
    for fields in ({}, {"size": "128x96"}, {"size": "auto"}):
        answer = await client.post(URL, json={"prompt": "a", "width": 128, "height": 96} | fields)
        assert answer.json()["size"] == "128x96"


async def test_true_cfg_scale_is_the_guidance_of_a_model_with_a_negative_prompt(client, runner) -> None:
    """Alone, or beside the same `guidance_scale`."""
    for fields in ({}, {"guidance_scale": 3.5}):
        answer = await client.post(URL, json={"prompt": "a", "true_cfg_scale": 3.5} | fields)
        assert answer.status_code == 200
        assert runner.jobs[-1].inputs["guidance"] == 3.5


async def test_a_distilled_model_takes_no_guidance_but_its_own(client, runner) -> None:
    """A `true_cfg_scale` of 1 asks for none, and leaves `guidance_scale` alone."""
    runner.more = {"flux-dev": built_in_workflows()["flux-dev"]}
    body = {"prompt": "a", "model": "flux-dev", "guidance_scale": 3.0}
    assert (await client.post(URL, json=body | {"true_cfg_scale": 1})).status_code == 200
    assert runner.jobs[0].inputs["guidance"] == 3.0
    answer = await client.post(URL, json=body | {"true_cfg_scale": 4})
    assert error_of(answer) == (400, "unsupported_parameter", "true_cfg_scale")


@pytest.mark.parametrize("name", DEFAULTS)
async def test_defaults_of_other_servers_ask_for_nothing(client, runner, name) -> None:
    """Their clients send them always."""
    await client.post(URL, json={"prompt": "a", "seed": 1})
    await client.post(URL, json={"prompt": "a", "seed": 1, name: DEFAULTS[name]})
    without, with_it = runner.jobs
    assert with_it.inputs == without.inputs


async def test_a_form_has_them_as_text(client, runner) -> None:
    """As every field of a form."""
    fields = {"prompt": "a", "width": "96", "height": "96", "true_cfg_scale": "3", "extra_params": "{}"}
    flags = {"enhance_prompt": "false", "generator_device": "cpu", "vae_use_tiling": "False"}
    answer = await client.post("/v1/images/edits", files={"image": file_of()}, data=fields | flags)
    assert answer.json()["size"] == "96x96"
    assert runner.jobs[0].inputs["guidance"] == 3.0


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"width": 128}, "missing", "height"),
        ({"height": 128}, "missing", "width"),
        ({"width": 128, "height": 96, "size": "96x128"}, "invalid_value", "size"),
        ({"width": 4096, "height": 96}, "out_of_range", "width"),
        ({"width": 100, "height": 96}, "invalid_value", "size"),
        ({"width": 0, "height": 96}, "out_of_range", "width"),
        ({"true_cfg_scale": 3, "guidance_scale": 4}, "invalid_value", "true_cfg_scale"),
        ({"true_cfg_scale": 99}, "out_of_range", "true_cfg_scale"),
        ({"enhance_prompt": True}, "unsupported_parameter", "enhance_prompt"),
        ({"generator_device": "mps"}, "unsupported_parameter", "generator_device"),
        ({"extra_params": {"a": 1}}, "unsupported_parameter", "extra_params"),
        ({"enable_teacache": True}, "unsupported_parameter", "enable_teacache"),
        ({"flow_shift": 3.0}, "unsupported_parameter", "flow_shift"),
    ],
)
async def test_what_they_ask_for_beyond_that_is_refused_by_name(client, runner, fields, code, param) -> None:
    """No job is made, and the field that was written is named."""
    answer = await client.post(URL, json={"prompt": "a"} | fields)
    assert error_of(answer) == (400, code, param)
    assert runner.jobs == []
