"""The bodies of txt2img and img2img: every field that real clients send is decided."""

import inspect
from typing import Any

import pytest
import webuiapi
from PIL import Image
from sd_backend_client.api.webui.controlnet_webui_constants import ControlNetUnitDict
from sd_backend_client.api.webui.diffusion_request_body import DiffusionRequestBody
from sd_backend_client.api.webui.request_formats import Img2ImgRequestBody, Txt2ImgRequestBody

from lego_serve.compat.a1111 import fields
from lego_serve.compat.a1111.bodies import ImageToImage, TextToImage, error_body, read_body
from lego_serve.compat.a1111.translate import translate
from lego_serve.compat.task import Refused

DECIDED = fields.HONOURED | fields.WITHOUT_EFFECT | fields.HARMLESS.keys()
UNIT_DECIDED = fields.UNIT_HONOURED | fields.UNIT_WITHOUT_EFFECT | fields.UNIT_HARMLESS.keys()
PHOTO = Image.new("RGB", (8, 8))


class Answer:
    """Enough of an answer for webuiapi."""

    status_code = 200
    text = ""

    def json(self) -> dict[str, Any]:
        return {"images": [], "parameters": {}, "info": "{}", "txt2img": [], "img2img": []}


class Session:
    """Keeps what webuiapi posts."""

    auth = None

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []

    def get(self, url: str) -> Answer:
        return Answer()

    def post(self, url: str, json: dict[str, Any]) -> Answer:
        self.posted.append(json)
        return Answer()


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    """The session of every webuiapi made in the test."""
    session = Session()
    monkeypatch.setattr("requests.Session", lambda: session)
    return session


def test_no_field_is_decided_twice() -> None:
    """A field is honoured, without effect, or refused unless harmless."""
    assert len(DECIDED) == len(fields.HONOURED) + len(fields.WITHOUT_EFFECT) + len(fields.HARMLESS)
    assert len(UNIT_DECIDED) == sum(map(len, (fields.UNIT_HONOURED, fields.UNIT_WITHOUT_EFFECT, fields.UNIT_HARMLESS)))
    assert ImageToImage.model_fields.keys() == fields.HONOURED


def test_every_field_of_sd_backend_client_is_decided() -> None:
    """By the names that it sends, ControlNet's units included."""
    declared = {*Txt2ImgRequestBody.__annotations__, *Img2ImgRequestBody.__annotations__}
    sent = DiffusionRequestBody(init_images=[PHOTO.copy()], mask=PHOTO.copy(), mask_blur=4).to_dict().keys()
    assert not (declared | sent) - DECIDED
    assert not ControlNetUnitDict.model_fields.keys() - UNIT_DECIDED


def test_every_field_of_webuiapi_is_decided(session: Session) -> None:
    """What both calls post, and what a ControlNet unit has."""
    api = webuiapi.WebUIApi()
    api.txt2img(prompt="a cat")
    api.img2img(images=[PHOTO], mask_image=PHOTO, prompt="a cat")
    assert not {name for body in session.posted for name in body} - DECIDED
    assert not webuiapi.ControlNetUnit(image=PHOTO).to_dict().keys() - UNIT_DECIDED


def test_what_webuiapi_sends_by_itself_is_served(session: Session) -> None:
    """All its defaults are harmless, and become a task."""
    api = webuiapi.WebUIApi()
    unit = webuiapi.ControlNetUnit(image=PHOTO, model="outline [abc]", weight=0.7)
    api.txt2img(prompt="a cat", controlnet_units=[unit])
    api.img2img(images=[PHOTO], mask_image=PHOTO, prompt="a cat", denoising_strength=0.5)
    made, edited = session.posted
    task = translate(read_body(TextToImage, made))
    assert (task.width, task.steps, task.guidance, task.sampler, task.seed) == (512, 20, 7.0, "euler", None)
    assert [(net.name, net.weight) for net in task.controlnets] == [("outline [abc]", 0.7)]
    task = translate(read_body(ImageToImage, edited))
    assert task.image is not None
    assert task.mask is not None
    assert (task.strength, task.mask.feather, task.mask.edits(255)) == (0.5, 4, True)


def test_what_webuiapi_can_ask_for_besides_is_refused_by_name(session: Session) -> None:
    """Extensions, scripts and the second pass."""
    api = webuiapi.WebUIApi()
    given = {name: parameter.default for name, parameter in inspect.signature(api.txt2img).parameters.items()}
    assert given["enable_hr"] is False
    for asked, said in (
        ({"enable_hr": True}, "`enable_hr` is not supported"),
        ({"script_name": "X/Y/Z plot"}, "`script_name`"),
        ({"adetailer": [webuiapi.ADetailer(ad_model="face")]}, "no extension 'ADetailer'"),
        ({"sag": webuiapi.Sag(True)}, "no extension 'Self Attention Guidance'"),
        ({"reactor": webuiapi.ReActor(PHOTO)}, "no extension 'reactor'"),
    ):
        api.txt2img(prompt="x", alwayson_scripts={}, **asked)
        with pytest.raises(Refused, match=said):
            translate(read_body(TextToImage, session.posted[-1]))


def test_what_sd_backend_client_sends_is_served() -> None:
    """Its own defaults, of both calls; the model goes into `override_settings`."""
    task = translate(read_body(TextToImage, DiffusionRequestBody(prompt="a", sd_model_name="lego-tiny").to_dict()))
    assert (task.checkpoint, task.steps, task.n) == ("lego-tiny", 30, 1)
    body = DiffusionRequestBody(prompt="a", init_images=[PHOTO.copy()], mask=PHOTO.copy(), soft_inpainting=False)
    assert translate(read_body(ImageToImage, body.to_dict())).strength == 0.75
    body.soft_inpainting = True
    with pytest.raises(Refused, match="soft inpainting"):
        translate(read_body(ImageToImage, body.to_dict()))


def test_small_bodies_of_other_clients_are_served() -> None:
    """Nulls and fields that nobody knows pass; what is absent is left to the model."""
    body = {"prompt": "a", "steps": None, "width": 1024, "height": 768, "unknown_field": 1, "seed": ""}
    task = translate(read_body(TextToImage, body))
    assert (task.prompt, task.steps, task.width, task.height, task.seed) == ("a", None, 1024, 768, None)
    assert translate(read_body(TextToImage, {})).prompt == ""


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], None),
        ({"steps": 0}, "steps"),
        ({"steps": "many"}, "steps"),
        ({"cfg_scale": float("nan")}, "cfg_scale"),
        ({"width": -1}, "width"),
        ({"batch_size": 99}, "batch_size"),
        ({"prompt": 5}, "prompt"),
        ({"seed": -2}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"styles": ["vivid"]}, "styles"),
        ({"resize_mode": 1}, "resize_mode"),
        ({"subseed_strength": 0.5}, "subseed_strength"),
        ({"alwayson_scripts": []}, "alwayson_scripts"),
    ],
)
def test_a_wrong_value_names_its_field(body: object, field: str | None) -> None:
    """In A1111's shape of errors."""
    with pytest.raises(Refused) as caught:
        read_body(TextToImage, body)
    assert caught.value.field == field
    answer = error_body(caught.value.message)
    assert answer.keys() == {"error", "detail", "body", "errors"}
    assert field is None or field in str(answer["detail"])
