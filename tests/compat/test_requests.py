"""Our own requests, made of what foreign ones ask for."""

import base64

import pytest

from lego_serve.compat.comfyui.translate import translate
from lego_serve.compat.names import Names
from lego_serve.compat.requests import A1111_WORDS, COMFYUI_WORDS, our_request
from lego_serve.compat.task import ControlNet, ImageTask, InputImage, Lora, MaskUse, Refused
from lego_serve.gateway.requests.schemas import EditRequest, GenerationRequest
from tests.support.graphs import guided_by_input, image_to_image, masked_edit, text_to_image

NAMES = Names(
    models={"lego-tiny": "lego-tiny", "gpt-image-1": "lego-tiny", "big-dev": "big"},
    loras={"stripes": "stripes-r4", "Stripes": "stripes-r4", "frame": "frame-r32"},
    controlnets={"outline": "lego-tiny-outline"},
)
EDGES = InputImage("name", "edges.png")
FULL = ImageTask(
    "a cat",
    "a dog",
    "gpt-image-1",
    128,
    96,
    12,
    4.0,
    sampler="euler",
    seed=9,
    n=3,
    loras=(Lora("stripes.safetensors", 0.5), Lora("Stripes", 0.25), Lora("frame")),
    controlnets=(ControlNet("outline", EDGES, 0.8, 0.1, 0.9),),
)


def test_a_generation_has_every_value() -> None:
    """Names are ours, two names of one adapter add up, and images are there."""
    made = our_request(FULL, NAMES, {EDGES: base64.b64encode(b"png").decode()})
    body = GenerationRequest.model_validate(
        dict(made.fields) | {"lora": tuple(made.fields["lora"]), "controlnet": tuple(made.fields["controlnet"])},
        strict=False,
    )
    assert made.route == "generations"
    assert (body.model, body.size, body.n, body.num_inference_steps, body.seed) == ("lego-tiny", "128x96", 3, 12, 9)
    assert (body.prompt, body.negative_prompt, body.guidance_scale) == ("a cat", "a dog", 4.0)
    assert [(use.name, use.scale) for use in body.lora or ()] == [("stripes-r4", 0.75), ("frame-r32", 1.0)]
    (net,) = body.controlnet or ()
    assert (net.name, net.weight, net.start, net.end) == ("lego-tiny-outline", 0.8, 0.1, 0.9)
    assert made.dispensable == {"sampler"}


def test_what_is_not_asked_for_is_left_to_the_model() -> None:
    """No field is there to be refused by a workflow that lacks its input."""
    made = our_request(ImageTask("a cat"), NAMES, {})
    assert made.fields == {"prompt": "a cat", "n": 1, "output_format": "png", "response_format": "b64_json"}


@pytest.mark.parametrize("graph", [text_to_image(), guided_by_input(), image_to_image(), masked_edit()])
def test_every_workflow_of_comfyui_makes_a_request_of_ours(graph: dict[str, dict[str, object]]) -> None:
    """The fields of an edit are those of its form; image and mask stand beside them."""
    task = translate(graph)
    made = our_request(task, NAMES, {})
    schema = GenerationRequest if made.route == "generations" else EditRequest
    body = schema.model_validate(made.fields)
    body.refuse_unsupported()
    assert (made.route == "edits") is (task.image is not None) is (made.image is not None)
    assert made.mask == task.mask


def test_an_edit_has_strength_and_the_spread_of_its_mask() -> None:
    """Its adapters are text, as in a form."""
    photo = InputImage("base64", "AAAA")
    task = ImageTask(
        "a cat", image=photo, mask=MaskUse(photo, dilation=6, feather=4), strength=0.5, loras=(Lora("frame"),)
    )
    body = EditRequest.model_validate(our_request(task, NAMES, {}).fields)
    assert (body.strength, body.mask_dilation, body.mask_feather) == (0.5, 6, 4)
    assert [use.name for use in body.lora or ()] == ["frame-r32"]


def test_what_happens_anyway_may_be_left_out() -> None:
    """No guidance, one image, Euler's method: a workflow without such an input does just that."""
    assert our_request(ImageTask("x", guidance=1.0), NAMES, {}).dispensable == {"guidance_scale", "n"}
    assert our_request(ImageTask("x", guidance=1.5, n=2, sampler="dpmpp_2m"), NAMES, {}).dispensable == frozenset()


@pytest.mark.parametrize(
    ("task", "field", "said"),
    [
        (ImageTask("x", checkpoint="lego-tinny.safetensors"), "model", "did you mean lego-tiny?"),
        (ImageTask("x", loras=(Lora("stripe"),)), "lora", "did you mean stripes?"),
        (ImageTask("x", controlnets=(ControlNet("outlin", EDGES),)), "controlnet", "did you mean outline?"),
        (ImageTask("x", controlnets=(ControlNet("outline", EDGES),)), "image", "no upload 'edges.png'"),
        (ImageTask("x", image=EDGES, controlnets=(ControlNet("outline", EDGES),)), "controlnet", "no ControlNet"),
        (ImageTask("x", width=128), "size", "a width needs a height"),
    ],
)
def test_what_is_not_known_is_refused(task: ImageTask, field: str, said: str) -> None:
    """The nearest there is is named, and the field of ours, which has a word in each protocol."""
    with pytest.raises(Refused) as caught:
        our_request(task, NAMES, {})
    assert caught.value.field == field
    assert said in caught.value.message


def test_words_for_our_fields_are_of_fields_there_are() -> None:
    """So that an error of ours can be told in the caller's words."""
    known = {*GenerationRequest.model_fields, *EditRequest.model_fields, "image"}
    assert A1111_WORDS.keys() | COMFYUI_WORDS.keys() <= known
