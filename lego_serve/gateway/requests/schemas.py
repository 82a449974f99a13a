"""The bodies of the Images API: every field the OpenAI SDK can send, and ours."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json

from lego_serve.core.addons import AdapterRequest, check_requests
from lego_serve.errors import RequestError, UnsupportedParameter
from lego_serve.gateway.media.masks import MAX_SPREAD

MAX_PROMPT_CHARACTERS = 32_000
QUALITY_STEPS = {"low": 8, "medium": 20, "high": 28}
# Known to the SDK, not honoured here; refused by name rather than ignored.
REFUSED = ("style", "complexity", "frame_count", "frame_duration_ms", "svg", "input_fidelity", "markup")
REFUSED_WORDS = {"quality": ("standard", "hd"), "background": ("transparent",), "response_format": ("url",)}
ADDONS = ("controlnet", "lora")  # in the order they stand in the names of built-in workflows
SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
ENTRY = re.compile(r"(?P<field>lora|controlnet)\[(?P<name>[a-z0-9_-]{1,64})\](?P<part>\.[a-z]+)?")  # by `entry_param`


def dimensions(size: str | None, multiple: int) -> tuple[int, int] | None:
    """Width and height of a `size`, or None for ``auto``.  Raises RequestError."""
    if size is None or size == "auto":
        return None
    match = SIZE.fullmatch(size)
    if match is None:
        raise RequestError("`size` must be `auto` or WIDTHxHEIGHT, such as 128x128.", param="size")
    width, height = int(match[1]), int(match[2])
    if width % multiple or height % multiple:
        raise RequestError(f"`size` must be made of multiples of {multiple}.", param="size")
    return width, height


def _words(said: str | None) -> str | None:
    return said if said is not None and said.strip() else None


# What an image shows; a blank one is none.
Caption = Annotated[Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)] | None, AfterValidator(_words)]


class ImageRequest(BaseModel):
    """What generations and edits share."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    size: str | None = None
    quality: Literal["low", "medium", "high", "auto", "standard", "hd"] | None = None
    output_format: Literal["png", "webp", "jpeg"] = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    background: Literal["opaque", "auto", "transparent"] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    # Accepted without effect.
    moderation: Literal["low", "auto"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    # Ours.
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=200)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)] | None = None
    deadline_ms: Annotated[int, Field(ge=1, le=3_600_000)] | None = None
    sampler: Annotated[str, Field(max_length=64)] | None = None
    guidance_start: Annotated[float, Field(ge=0, le=1)] | None = None
    guidance_end: Annotated[float, Field(ge=0, le=1)] | None = None
    stream_progress: bool | None = None
    style: Any = None
    complexity: Any = None
    frame_count: Any = None
    frame_duration_ms: Any = None
    svg: Any = None
    input_fidelity: Any = None
    markup: Any = None

    def refuse_unsupported(self) -> None:
        """Raise UnsupportedParameter for the first field that is known and not honoured."""
        for name in REFUSED:
            if getattr(self, name) is not None:
                raise UnsupportedParameter(f"`{name}` is not supported by this server.", param=name)
        if self.response_format == "url":
            raise UnsupportedParameter("Images are returned as `b64_json` only.", param="response_format")
        if self.background == "transparent":
            raise UnsupportedParameter("Images have an opaque background.", param="background")
        for name in ("partial_images", "stream_progress"):
            if getattr(self, name) and not self.stream:
                raise RequestError(f"`{name}` needs `stream: true`.", param=name)
        if self.quality in REFUSED_WORDS["quality"]:
            raise UnsupportedParameter("`quality` must be low, medium, high or auto.", param="quality")
        if self.output_compression is not None and self.output_format == "png":
            raise RequestError("`output_compression` needs `output_format` webp or jpeg.", param="output_compression")
        if not self.prompt.strip():
            raise RequestError("`prompt` must not be empty.", param="prompt")

    def dimensions(self, multiple: int) -> tuple[int, int] | None:
        """Width and height, or None for ``auto``.  Raises RequestError."""
        return dimensions(self.size, multiple)

    def field_of(self, param: str | None) -> str | None:
        """The field of the request behind what an error is about."""
        return REQUEST_NAMES.get(param or "", param)

    def _check_guidance_interval(self) -> None:
        start, end = self.guidance_start or 0.0, 1.0 if self.guidance_end is None else self.guidance_end
        if start >= end:
            raise RequestError("`guidance_start` must be below `guidance_end`.", param="guidance_start")

    def inputs(self) -> dict[str, object]:
        """The workflow inputs the body gives, by the workflow's names.  Raises RequestError."""
        self._check_guidance_interval()
        steps = self.num_inference_steps or QUALITY_STEPS.get(self.quality or "")
        given = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "steps": steps,
            "guidance": self.guidance_scale,
            "seed": self.seed,
            "n": self.n,
            "sampler": self.sampler,
            "guidance_start": self.guidance_start,
            "guidance_end": self.guidance_end,
        }
        return {name: value for name, value in given.items() if value is not None}


class LoraUse(BaseModel):
    """An adapter by name, its scale, and the part of the steps it is at work in."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: Annotated[str, Field(max_length=256)]
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


class ControlNetUse(BaseModel):
    """A ControlNet by name, its image as base64 of a file, its weight, and the part of the steps it is at work in."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: Annotated[str, Field(max_length=256)]
    image: str
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0


class GenerationRequest(ImageRequest):
    """A generation's fields: what all requests have, and what may be added to the model."""

    lora: tuple[LoraUse, ...] | None = None
    controlnet: tuple[ControlNetUse, ...] | None = None

    @property
    def addons(self) -> frozenset[str]:
        """The fields that need a workflow that takes them."""
        return frozenset(name for name in ADDONS if getattr(self, name))

    def refuse_unsupported(self) -> None:
        """Also raise RequestError for adapters and ControlNets that cannot be."""
        super().refuse_unsupported()
        _check_adapters(self.lora)
        nets = [(use.name, use.weight, use.start, use.end) for use in self.controlnet or ()]
        check_requests("controlnet", "a ControlNet", nets)

    def inputs(self) -> dict[str, object]:
        """The workflow inputs the body gives; control images are decoded by who knows their size."""
        return super().inputs() | _adapters(self.lora)

    def field_of(self, param: str | None) -> str | None:
        """The same; of an entry that an error tells by its name, its place."""
        told = ENTRY.fullmatch(param or "")
        if told is None:
            return super().field_of(param)
        names = [use.name for use in getattr(self, told["field"]) or ()]
        if told["name"] not in names:
            return told["field"]
        return f"{told['field']}[{names.index(told['name'])}]{told['part'] or '.name'}"


class EditRequest(ImageRequest):
    """An edit's fields besides its files; they arrive as form strings."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)

    lora: Json[tuple[LoraUse, ...] | None] | None = None  # a form has text alone
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    template: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    caption: Caption = None
    mask_dilation: Annotated[int, Field(ge=0, le=MAX_SPREAD)] = 0
    mask_feather: Annotated[int, Field(ge=0, le=MAX_SPREAD)] = 4
    reuse: Literal["exact", "high", "balanced"] = "high"

    def refuse_unsupported(self) -> None:
        """Also raise RequestError for adapters that cannot be."""
        super().refuse_unsupported()
        _check_adapters(self.lora)

    def refuse_without_mask(self, is_masked: bool) -> None:
        """Raise RequestError for fields that only a mask gives a meaning."""
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}  # a blank caption is none
        for name in ("mask_dilation", "mask_feather", "reuse", "caption"):
            if name in given and not is_masked:
                raise RequestError(f"`{name}` needs a `mask`.", param=name)

    def inputs(self) -> dict[str, object]:
        """The workflow inputs the form gives."""
        own = {"strength": self.strength, "caption": self.caption}
        given = {name: value for name, value in own.items() if value is not None}
        return super().inputs() | given | _adapters(self.lora)


def _check_adapters(uses: tuple[LoraUse, ...] | None) -> None:
    check_requests("lora", "an adapter", [(use.name, use.scale, use.start, use.end) for use in uses or ()])


def _adapters(uses: tuple[LoraUse, ...] | None) -> dict[str, object]:
    """The workflow's input of adapters, where there are any."""
    asks = tuple(AdapterRequest(use.name, use.scale, use.start, use.end) for use in uses or ())
    return {"lora": asks} if asks else {}


REQUEST_NAMES = {"steps": "num_inference_steps", "guidance": "guidance_scale", "width": "size", "height": "size"}
