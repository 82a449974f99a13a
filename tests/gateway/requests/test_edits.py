"""POST /v1/images/edits: image to image, and what a form may hold."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.support.gateway.images import file_of

URL = "/v1/images/edits"


def png(width: int = 128, height: int = 96, mode: str = "RGB", form: str = "PNG", **options: object) -> bytes:
    """An image file."""
    out = io.BytesIO()
    Image.new(mode, (width, height)).save(out, form, **options)
    return out.getvalue()


async def test_an_image_and_a_prompt_run_the_sibling_workflow(client, runner) -> None:
    """lego-tiny's edits go to lego-tiny-img2img, at the image's own size, with the form's fields."""
    fields = {"prompt": "a", "model": "lego-tiny", "seed": "4", "strength": "0.5", "n": "2"}
    answer = await client.post(URL, files={"image": png()}, data=fields)
    assert answer.status_code == 200
    job = runner.jobs[0]
    assert job.workflow == "lego-tiny-img2img"
    assert (job.inputs["width"], job.inputs["height"], job.inputs["strength"], job.inputs["n"]) == (128, 96, 0.5, 2)
    pixels = job.inputs["image"].pixels
    assert (pixels.shape, pixels.dtype) == ((96, 128, 3), np.uint8)


async def test_the_bracket_form_of_the_field_is_read(client) -> None:
    """image[] is what the SDK sends for a list."""
    assert (await client.post(URL, files={"image[]": png()}, data={"prompt": "a"})).status_code == 200


@pytest.mark.parametrize(
    ("files", "fields", "code", "param"),
    [
        ({}, {"prompt": "a"}, "missing", "image"),
        ({"image": b"not an image"}, {"prompt": "a"}, "invalid_image", "image"),
        ({"image": png()[:60]}, {"prompt": "a"}, "invalid_image", "image"),
        ({"image": png(8000, 8000)}, {"prompt": "a"}, "invalid_image", "image"),
        ({"image": png(mode="I;16")}, {"prompt": "a"}, "invalid_image", "image"),
        ({"image": png(form="GIF")}, {"prompt": "a"}, "invalid_image", "image"),
        ({"image": png(), "mask": png()}, {"prompt": "a"}, "invalid_image", "mask"),
        ({"image": png()}, {"prompt": "a", "reuse": "high"}, "invalid_value", "reuse"),
        ({"image": png()}, {}, "missing", "prompt"),
        ({"image": png()}, {"prompt": "a", "strength": "2"}, "out_of_range", "strength"),
        ({"image": png()}, {"prompt": "a", "strength": "nan"}, "invalid_value", "strength"),
        ({"image": png()}, {"prompt": "a", "foo": "1"}, "unsupported_parameter", "foo"),
        ({"image": png()}, {"prompt": "a", "input_fidelity": "high"}, "unsupported_parameter", "input_fidelity"),
        ({"image": png()}, {"prompt": "a", "size": "512x512"}, "out_of_range", "size"),
    ],
)
async def test_bad_forms_are_refused_by_name(client, runner, files, fields, code, param) -> None:
    """Each mistake has its code and field, and no job is made of it."""
    answer = (
        await client.post(URL, files=files or {"none": (None, "x")}, data=fields)
        if files
        else await client.post(URL, files={"prompt": (None, "a")})
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert runner.jobs == []


async def test_an_animated_image_is_refused(client) -> None:
    """Only still images are edited."""
    out = io.BytesIO()
    frames = [Image.new("RGB", (96, 96), c) for c in ("red", "blue")]
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:])
    answer = await client.post(URL, files={"image": out.getvalue()}, data={"prompt": "a"})
    assert answer.json()["error"]["code"] == "invalid_image"


@pytest.mark.parametrize(
    ("files", "fields", "code", "words", "param"),
    [
        ({"image": png()}, {"prompt": "a" * 70_000}, "form_too_large", "65536 bytes", None),
        ({"image": png()}, {f"f{i}": "1" for i in range(100)}, "form_too_large", "64 fields", None),
        ({f"f{i}": b"x" for i in range(20)}, {"prompt": "a"}, "form_too_large", "16 files", None),
        ({"image": png(), "foo": b"x"}, {"prompt": "a"}, "unsupported_parameter", "file", "foo"),
    ],
)
async def test_a_form_over_a_limit_hears_which(client, files, fields, code, words, param) -> None:
    """The limit is named, and so is the field of a file nobody asked for."""
    answer = await client.post(URL, files=files, data=fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("names", "code", "param", "words"),
    [
        (["image", "image"], "invalid_value", "image", "At most one `image`"),
        (["image[]", "image[]"], "invalid_value", "image", "At most one `image`"),
        (["image", "image[]"], "invalid_value", "image", "At most one `image`"),
        (["image[]", "mask", "image"], "invalid_value", "image", "At most one `image`"),
        (["image"] * 20, "form_too_large", None, "16 files"),
        (["image", "mask", "mask"], "duplicate_field", "mask", "At most one `mask`"),
        (["mask", "mask"], "duplicate_field", "mask", "At most one `mask`"),
        (["mask"], "missing", "image", "Exactly one `image`"),
    ],
)
async def test_an_edit_has_one_image_and_one_mask_at_most(client, runner, names, code, param, words) -> None:
    """Under whichever name; more of either, or a mask alone, is refused before any is decoded, and no job is made."""
    files = [("prompt", (None, "a")), *((name, ("a.png", png(mode="RGBA"))) for name in names)]
    answer = await client.post(URL, files=files)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert words in error["message"]
    assert runner.jobs == []


async def test_a_stroke_thinner_than_a_pixel_of_the_edit_is_edited(client, runner) -> None:
    """Two pixels of the mask are half a pixel at a quarter of its size; that pixel is new."""
    alpha = np.full((1024, 1024), 255, np.uint8)
    alpha[:, 400:402] = 0
    mask = file_of(Image.fromarray(np.dstack([np.zeros((1024, 1024, 3), np.uint8), alpha])))
    fields = {"prompt": "a", "size": "256x256", "mask_feather": "0"}
    answer = await client.post(URL, files={"image": png(1024, 1024), "mask": mask}, data=fields)
    assert answer.status_code == 200, answer.text
    [job] = runner.jobs
    weight = np.asarray(job.inputs["edit"].weight)
    assert (weight[:, 100] == 255).all()
    assert np.count_nonzero(weight) == 256


async def test_seeds_wrap_where_nothing_is_edited(client, runner) -> None:
    """The images an opaque mask gives back are numbered as any others."""
    mask = file_of(Image.new("RGBA", (128, 96), "black"))
    fields = {"prompt": "a", "seed": str(2**32 - 1), "n": "2"}
    answer = await client.post(URL, files={"image": png(), "mask": mask}, data=fields)
    assert answer.status_code == 200, answer.text
    assert [made["seed"] for made in answer.json()["data"]] == [2**32 - 1, 0]
    reuse = answer.json()["lego"]["reuse"]
    assert (reuse["quality"], reuse["masked_steps"], reuse["steps"], reuse["active_rows"]) == ("high", 0, 0, 0)
    assert reuse["rows"] == 8 * 6
    assert runner.jobs == []


async def test_an_image_given_back_without_a_seed_has_one_by_chance(client) -> None:
    """As any answer has."""
    mask = file_of(Image.new("RGBA", (128, 96), "black"))
    seeds = set()
    for _ in range(3):
        answer = await client.post(URL, files={"image": png(), "mask": mask}, data={"prompt": "a"})
        seeds.add(answer.json()["lego"]["seed"])
    assert len(seeds) > 1
