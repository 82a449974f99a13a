"""What bodies of txt2img and img2img ask for."""

from typing import Any

import pytest

from lego_serve.compat.a1111.bodies import ImageToImage, TextToImage, read_body
from lego_serve.compat.a1111.translate import translate
from lego_serve.compat.task import ControlNet, ImageTask, InputImage, Lora, Refused

PHOTO = {"init_images": ["data:image/png;base64,AAAA"]}


def text_to_image(**body: Any) -> ImageTask:
    return translate(read_body(TextToImage, body))


def image_to_image(**body: Any) -> ImageTask:
    return translate(read_body(ImageToImage, PHOTO | body))


def complaint(body: dict[str, Any]) -> str:
    with pytest.raises(Refused) as caught:
        image_to_image(**body)
    return caught.value.message


def test_every_value_is_in_the_task() -> None:
    """Adapters leave the prompt, and a blank negative prompt is none."""
    task = text_to_image(
        prompt="a cat<lora:stripes:0.5>",
        negative_prompt="",
        seed=2**32 + 1,
        steps=9,
        cfg_scale=3,
        width=64,
        height=96,
        batch_size=2,
        n_iter=3,
        sampler_name="DPM++ 2M",
        scheduler="automatic",
    )
    assert (task.prompt, task.loras, task.negative_prompt) == ("a cat", (Lora("stripes", 0.5),), None)
    assert (task.seed, task.steps, task.guidance, task.width, task.height, task.n) == (1, 9, 3.0, 64, 96, 6)
    assert (task.sampler, task.replaced) == ("dpmpp_2m", ())
    with pytest.raises(Refused, match="is 12; at most 10"):
        text_to_image(batch_size=4, n_iter=3)


def test_a_stand_in_is_said() -> None:
    """As it will be in `extra_generation_params`; the older name of a sampler counts where there is no other."""
    task = text_to_image(sampler_index="Euler a", scheduler="Karras")
    assert task.replaced == (("Sampler used", "euler"), ("Schedule used", "the model's own"))
    with pytest.raises(Refused, match=r"sampler 'Eule a' not found; did you mean Euler a\?"):
        text_to_image(sampler_name="Eule a")
    with pytest.raises(Refused, match="sampler 'LMS' not found"):
        text_to_image(sampler_name="LMS")
    with pytest.raises(Refused, match="scheduler 'turbo' not found"):
        text_to_image(scheduler="turbo")


def test_the_model_is_that_of_the_request_or_else_of_the_options() -> None:
    """Settings that would change the image are refused by name."""
    body = read_body(TextToImage, {"override_settings": {"sd_model_checkpoint": "a", "samples_format": "jpg"}})
    assert translate(body, "b").checkpoint == "a"
    assert translate(read_body(TextToImage, {}), "b").checkpoint == "b"
    for name, value in (("CLIP_stop_at_last_layers", 2), ("sd_vae", "x.pt"), ("other", 1), ("sd_model_checkpoint", 1)):
        with pytest.raises(Refused, match=f"override_settings.{name}"):
            text_to_image(override_settings={name: value})


def test_an_image_is_redrawn_by_three_quarters_unless_the_body_says_another() -> None:
    """A1111's default; 0 would change nothing."""
    task = image_to_image()
    assert (task.image, task.strength, task.mask) == (InputImage("base64", "AAAA"), 0.75, None)
    assert image_to_image(denoising_strength=0.2).strength == 0.2
    assert "denoising_strength" in complaint({"denoising_strength": 0})
    assert "it has 0" in complaint({"init_images": []})
    assert "it has 2" in complaint({"init_images": ["a", "b"]})


def test_white_is_what_changes() -> None:
    """Unless the mask is inverted; the blur is the width over which new fades into old."""
    mask = image_to_image(mask="BBBB").mask
    assert mask is not None
    assert (mask.image, mask.edits(255), mask.edits(0), mask.feather) == (InputImage("base64", "BBBB"), True, False, 4)
    mask = image_to_image(mask="BBBB", inpainting_mask_invert=1, mask_blur=9, mask_blur_x=500).mask
    assert mask is not None
    assert (mask.edits(255), mask.edits(0), mask.feather) == (False, True, 64)


def test_controlnets_come_from_the_extensions_arguments() -> None:
    """Its name in any case, its image in any of its forms; units that are off are none."""
    units = [
        {"model": "outline", "image": "AAAA", "weight": 0.5, "guidance_start": 0.1, "guidance_end": 0.9},
        {"model": "other", "input_image": "data:image/png;base64,BBBB", "enabled": True, "unknown": 1},
        {"model": "third", "image": {"image": "CCCC", "mask": None}, "module": "none", "control_mode": "Balanced"},
        {"model": "off", "enabled": False, "module": "canny"},
        None,
        False,
    ]
    task = text_to_image(alwayson_scripts={"controlNet": {"args": units}})
    assert task.controlnets == (
        ControlNet("outline", InputImage("base64", "AAAA"), 0.5, 0.1, 0.9),
        ControlNet("other", InputImage("base64", "BBBB")),
        ControlNet("third", InputImage("base64", "CCCC")),
    )


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ({"image": "A"}, "names no `model`"),
        ({"image": "A", "model": "None"}, "names no `model`"),
        ({"model": "m"}, "needs an `image`"),
        ({"model": "m", "image": {"image": "A", "mask": "B"}}, "mask"),
        ({"model": "m", "image": "A", "module": "canny"}, "`alwayson_scripts.ControlNet.args[0].module`"),
        ({"model": "m", "image": "A", "control_mode": 1}, "control_mode"),
        ({"model": "m", "image": "A", "weight": 99}, "args[0].weight"),
        ({"model": "m", "image": "A", "guidance_start": 0.9, "guidance_end": 0.1}, "must be below"),
    ],
)
def test_what_a_unit_cannot_have_is_named(unit: dict[str, object], said: str) -> None:
    """With its place in the list."""
    assert said in complaint({"alwayson_scripts": {"ControlNet": {"args": [unit]}}})


@pytest.mark.parametrize("unit", [True, "{}", 5, ["canny"]])
def test_a_unit_that_is_no_object_is_refused(unit: object) -> None:
    """Rather than an image without its ControlNet; one that is off may be false or null."""
    assert "`alwayson_scripts.ControlNet.args[1]` must be an object" in complaint(
        {"alwayson_scripts": {"ControlNet": {"args": [None, unit]}}}
    )
    assert not text_to_image(alwayson_scripts={"ControlNet": {"args": [False, None]}}).controlnets


def test_other_extensions_must_be_off() -> None:
    """Clients send those they know of, switched off."""
    off = {
        "ADetailer": {"args": [False]},
        "animatediff": {"args": [{"enable": False}]},
        "roop": {"args": ["AAAA", False, "0"]},
        "empty": {"args": []},
        "null": {"args": [None]},
    }
    assert text_to_image(alwayson_scripts=off).controlnets == ()
    for script in ({"args": [True]}, {"args": [{"enable": True}]}, {"args": ["x", True]}, {"args": ["x"]}):
        with pytest.raises(Refused, match="no extension 'Other'"):
            text_to_image(alwayson_scripts={"Other": script})
    with pytest.raises(Refused, match="a list `args`"):
        text_to_image(alwayson_scripts={"Other": {"args": "x"}})
