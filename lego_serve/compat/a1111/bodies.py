"""The bodies of AUTOMATIC1111's txt2img and img2img, read as leniently as it does: nulls and unknown fields pass."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lego_serve.compat.a1111.fields import HARMLESS, is_harmless
from lego_serve.compat.task import MAX_GUIDANCE, MAX_IMAGES, MAX_STEPS, Refused

MAX_SIDE = 16384
MAX_SEED = 2**64 - 1
BodyT = TypeVar("BodyT", bound="TextToImage")


def _seed(value: object) -> object:
    """A1111 takes -1, an empty text and words that are no number for a seed at random."""
    if isinstance(value, str):
        return int(value) if value.strip().lstrip("-").isdecimal() and len(value) <= 32 else None
    return value


Count = Annotated[int, Field(ge=1, le=MAX_IMAGES)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Blur = Annotated[int, Field(ge=0, le=1024)]
Seed = Annotated[Annotated[int, Field(ge=-1, le=MAX_SEED)] | None, BeforeValidator(_seed)]


class TextToImage(BaseModel):
    """What ``POST /sdapi/v1/txt2img`` sends.  A value that is absent or null is the model's own."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    prompt: str | None = None
    negative_prompt: str | None = None
    seed: Seed = None
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    cfg_scale: Annotated[float, Field(ge=0, le=MAX_GUIDANCE)] | None = None
    width: Side | None = None
    height: Side | None = None
    batch_size: Count | None = None
    n_iter: Count | None = None
    override_settings: dict[str, Any] | None = None
    alwayson_scripts: dict[str, Any] | None = None
    send_images: bool | None = None
    disable_extra_networks: bool | None = None

    @property
    def sampler(self) -> str | None:
        """The sampler's name; `sampler_index` is its older name."""
        return self.sampler_name or self.sampler_index or None


class ImageToImage(TextToImage):
    """What ``POST /sdapi/v1/img2img`` sends besides."""

    init_images: list[str] | None = None
    mask: str | None = None
    denoising_strength: Annotated[float, Field(ge=0, le=1)] | None = None
    mask_blur: Blur | None = None
    mask_blur_x: Blur | None = None
    mask_blur_y: Blur | None = None
    inpainting_mask_invert: Annotated[int, Field(ge=0, le=1)] | None = None


def read_body(model: type[BodyT], body: object) -> BodyT:
    """Return the fields of a body.  Raises Refused for a wrong value, and for what is not supported."""
    if not isinstance(body, Mapping):
        raise Refused("the body must be a JSON object")
    wrong = next((name for name in HARMLESS if name in body and not is_harmless(name, body[name], HARMLESS)), None)
    if wrong is not None:
        fine = HARMLESS[wrong][0]
        raise Refused(f"`{wrong}` is not supported by this server; leave it out or send {fine!r}", wrong)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Refused(f"`{place}`: {first['msg']}", place) from None


def error_body(message: str, kind: str = "HTTPException") -> dict[str, object]:
    """Return a refusal in A1111's shape."""
    return {"error": kind, "detail": message, "body": "", "errors": message}
