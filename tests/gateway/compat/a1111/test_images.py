"""txt2img, img2img and png-info over the path of the Images API."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from lego_serve.errors import CapacityError
from tests.support.gateway.client import file_of

TXT2IMG, IMG2IMG = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
BODY = {"prompt": "a red circle", "steps": 12, "cfg_scale": 4.5, "width": 128, "height": 96, "seed": 7}


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_a_prompt_becomes_images_that_say_how_they_were_made(client, runner) -> None:
    """A PNG without a prefix, the request again, and `info` as text."""
    answer = await client.post(TXT2IMG, json=BODY | {"batch_size": 2, "sampler_name": "Euler a"})
    assert answer.status_code == 200, answer.text
    made = answer.json()
    info = json.loads(made["info"])
    assert made["parameters"] == BODY | {"batch_size": 2, "sampler_name": "Euler a"}
    assert (info["all_seeds"], info["steps"], info["cfg_scale"]) == ([7, 8], 12, 4.5)
    assert (info["sampler_name"], info["extra_generation_params"]) == ("Euler a", {"Sampler used": "euler"})
    assert info["sd_model_name"] == "lego-tiny"
    first = Image.open(io.BytesIO(base64.b64decode(made["images"][0])))
    assert (first.size, first.info["parameters"]) == ((128, 96), info["infotexts"][0])
    inputs = runner.jobs[0].inputs
    assert (inputs["prompt"], inputs["steps"], inputs["guidance"], inputs["sampler"]) == (
        "a red circle",
        12,
        4.5,
        "euler",
    )
    read = (await client.post("/sdapi/v1/png-info", json={"image": made["images"][1]})).json()
    assert (read["parameters"]["Prompt"], read["parameters"]["Seed"]) == ("a red circle", "8")


async def test_a_tag_in_the_prompt_is_an_adapter(client, runner) -> None:
    """It leaves the text, and leads to the workflow that takes adapters."""
    answer = await client.post(TXT2IMG, json=BODY | {"prompt": "a cat <lora:b:0.5>"})
    assert answer.status_code == 200, answer.text
    [job] = runner.jobs
    assert (job.workflow, job.inputs["prompt"]) == ("lego-tiny-lora", "a cat ")
    assert [(use.name, use.scale) for use in job.inputs["lora"]] == [("b", 0.5)]
    assert json.loads(answer.json()["info"])["prompt"] == "a cat <lora:b:0.5>"


async def test_a_controlnet_is_a_unit_of_the_extension(client, runner) -> None:
    """Its image stands in the body."""
    unit = {"model": "edges", "image": text_of(file_of(3)), "weight": 0.5, "module": "none"}
    answer = await client.post(TXT2IMG, json=BODY | {"alwayson_scripts": {"ControlNet": {"args": [unit]}}})
    assert answer.status_code == 200, answer.text
    [use] = runner.jobs[0].inputs["controlnet"]
    assert (use.name, use.weight, use.pixels.shape) == ("edges", 0.5, (96, 128, 3))


async def test_white_is_what_a_mask_redraws(client, runner) -> None:
    """A mask of another size is brought to the image's; inverted, black is."""
    mask = Image.new("L", (64, 48), 0)
    mask.paste(255, (0, 0, 32, 48))
    file = io.BytesIO()
    mask.save(file, "PNG")
    body = BODY | {"init_images": [text_of(file_of(9))], "mask": text_of(file.getvalue()), "mask_blur": 0}
    for inverted, left, right in ((0, 255, 0), (1, 0, 255)):
        answer = await client.post(IMG2IMG, json=body | {"inpainting_mask_invert": inverted, "denoising_strength": 0.5})
        assert answer.status_code == 200, answer.text
        job = runner.jobs[-1]
        weight = np.asarray(job.inputs["edit"].weight)
        assert (job.workflow, weight[50, 10], weight[50, 120]) == ("lego-tiny-edit", left, right)
        assert job.inputs["strength"] == 0.5


async def test_an_image_alone_starts_an_image(client, runner) -> None:
    """With A1111's own strength where none is given, and as a data URL as well."""
    url = f"data:image/png;base64,{text_of(file_of(9))}"
    assert (await client.post(IMG2IMG, json=BODY | {"init_images": [url]})).status_code == 200
    assert (runner.jobs[0].workflow, runner.jobs[0].inputs["strength"]) == ("lego-tiny-img2img", 0.75)


async def test_a_prompt_may_be_empty(client, runner) -> None:
    """Clients send none by default; an adapter may be all there is in one."""
    for prompt in ("", None, "<lora:b:1>"):
        assert (await client.post(TXT2IMG, json=BODY | {"prompt": prompt})).status_code == 200
        assert str(runner.jobs[-1].inputs["prompt"]).strip() == ""


async def test_images_can_stay_away(client) -> None:
    """With `send_images` false the answer only says how they were made."""
    made = (await client.post(TXT2IMG, json=BODY | {"send_images": False})).json()
    assert (made["images"], json.loads(made["info"])["all_seeds"]) == ([], [7])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 101}, "`steps`"),
        ({"width": 1000}, "`width`"),
        ({"enable_hr": True}, "`enable_hr`"),
        ({"sampler_name": "UniPC"}, "UniPC"),
        ({"cfg_scale": 50}, "`cfg_scale`"),
        ({"script_name": "x/y/z plot"}, "`script_name`"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True]}}}, "ADetailer"),
        ({"alwayson_scripts": {"ControlNet": {"args": [{"model": "egdes", "image": "eA=="}]}}}, "edges"),
        ({"prompt": "<lora:c:1> x"}, "no adapter c"),
        ({"override_settings": {"sd_model_checkpoint": "lego-tiyn"}}, "lego-tiny"),
        ({"init_images": ["no image"]}, "`init_images`"),
        ({"init_images": []}, "`init_images`"),
        ({"init_images": [text_of(b"no image")]}, "image"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_its_own_name(client, runner, change, named) -> None:
    """In A1111's shape, with the nearest name there is."""
    route = IMG2IMG if "init_images" in change else TXT2IMG
    answer = await client.post(route, json=BODY | change)
    refusal = answer.json()
    assert (answer.status_code, set(refusal)) == (400, {"error", "detail", "body", "errors"})
    assert named in refusal["detail"]
    assert not runner.jobs


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"a"', b'{"steps": NaN}', b'{"x": [1e999]}', b'{"a": 1, "prompt": "\\ud800"}']
)
async def test_what_is_no_body_is_refused(client, content) -> None:
    """Whatever it is said to be."""
    answer = await client.post(TXT2IMG, content=content, headers={"content-type": "text/plain"})
    assert (answer.status_code, "error" in answer.json()) == (400, True)


async def test_a_full_server_says_when_to_come_again(client, runner) -> None:
    """429 in A1111's shape, with the header."""
    runner.error = CapacityError("Full.", retry_after_s=3.0)
    answer = await client.post(TXT2IMG, json=BODY)
    assert (answer.status_code, answer.headers["retry-after"], answer.json()["detail"]) == (429, "3", "Full.")


@pytest.mark.parametrize(
    "image", [b"no png", b"\x89PNG\r\n\x1a\n\0\0", b"\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXtparameters\0hi"]
)
async def test_any_file_may_be_asked_about(client, image) -> None:
    """A damaged one answers with what there is, another kind of file with 400."""
    answer = await client.post("/sdapi/v1/png-info", json={"image": text_of(image)})
    assert answer.status_code == (400 if image == b"no png" else 200)
