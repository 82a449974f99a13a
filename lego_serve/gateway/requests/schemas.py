"""The bodies of the Images API: every field that the OpenAI SDK can send, and our own fields."""

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Json

from lego_serve.core.addons import AdapterRequest, check_requests
from lego_serve.core.prompt_tags import adapter_tag
from lego_serve.errors import RequestError, UnsupportedParameter
from lego_serve.gateway.media.masks import MAX_SPREAD
from lego_serve.gateway.requests.foreign_fields import ForeignFields

MAX_PROMPT_CHARACTERS = 32_000
QUALITY_STEPS = {"low": 8, "medium": 20, "high": 28, "xhigh": 40, "max": 50}
DALL_E_QUALITY = {"standard": "medium", "hd": "high"}  # what dall-e called them
MAX_IMAGES = 10
RANDOM_SEED = -1  # as tools write "draw one"
# Known to the SDK, not honoured here; refused by name rather than ignored.
REFUSED = ("complexity", "frame_count", "frame_duration_ms", "svg", "markup")
REFUSED_WORDS = {"input_fidelity": ("high",), "background": ("transparent",)}
ADDONS = ("controlnet", "lora")  # in the order of the suffixes of built-in workflows
SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})", re.ASCII)
# One entry, as `entry_param` writes it.
ENTRY = re.compile(r"(?P<field>lora|controlnet)\[(?P<name>[a-z0-9_-]{1,64})\](?P<part>\.[a-z]+)?")


def dimensions(size: str | None, multiple: int) -> tuple[int, int] | None:
    """Return width and height of a `size`; None for ``auto``.  Raises RequestError."""
    if size is None or size == "auto":
        return None
    match = SIZE.fullmatch(size)
    if match is None:
        raise RequestError("`size` must be `auto` or WIDTHxHEIGHT, such as 128x128.", param="size")
    width, height = int(match[1]), int(match[2])
    if width % multiple or height % multiple:
        raise RequestError(f"`size` must be made of multiples of {multiple}.", param="size")
    return width, height


def quality_of(steps: int) -> str:
    """Return the word for a number of steps: the best quality that does not take more, or the least."""
    return max((least, word) for word, least in QUALITY_STEPS.items() if least <= steps or word == "low")[1]


def _none_if_blank(text: str | None) -> str | None:
    return text if text is not None and text.strip() else None


Format: TypeAlias = Literal["png", "webp", "jpeg"]


def if_null(default: object, accepted: Any) -> BeforeValidator:
    """Return the validator by which null means not given, as OpenAI's SDK sends it; ``accepted`` is for the schema."""
    return BeforeValidator(lambda value: default if value is None else value, json_schema_input_type=accepted)


def refuse_adapter_tags(**texts: str | None) -> None:
    """Raise UnsupportedParameter for the first text in which a tag such as `<lora:NAME:0.8>` names an adapter."""
    for param, text in texts.items():
        name = adapter_tag(text)
        if name is not None:
            tag = f"`<lora:{name}:...>`" if name else "a `<lora:...>` tag"
            example = f'[{{"name": "{name or "NAME"}", "scale": 0.8}}]'
            raise UnsupportedParameter(
                f"`{param}` holds {tag}, which no text encoder understands; leave it out, and give adapters in the "
                f"field `lora` instead: {example}.",
                param=param,
                code="adapter_in_prompt",
            )


# What an image shows; a blank caption is none.
Caption = Annotated[Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)] | None, AfterValidator(_none_if_blank)]


class ImageRequest(ForeignFields):
    """What generations and edits share."""

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = None
    size: str | None = None
    quality: Literal["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"] | None = None
    output_format: Annotated[Format, if_null("png", Format | None)] = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    background: Literal["opaque", "auto", "transparent"] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    # Accepted without effect.
    moderation: Literal["low", "auto"] | None = None
    style: Literal["vivid", "natural"] | None = None
    input_fidelity: Literal["low", "high"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    # Ours.
    seed: Annotated[int, Field(ge=RANDOM_SEED, le=2**32 - 1)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=200)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)] | None = None
    deadline_ms: Annotated[int, Field(ge=1, le=3_600_000)] | None = None
    sampler: Annotated[str, Field(max_length=64)] | None = None
    guidance_start: Annotated[float, Field(ge=0, le=1)] | None = None
    guidance_end: Annotated[float, Field(ge=0, le=1)] | None = None
    tier: Annotated[str, Field(max_length=64)] | None = None
    tier_floor: Literal["exact", "high", "balanced", "fast", "turbo"] | None = None
    stream_progress: bool | None = None
    embed_request: bool | None = None
    complexity: Any = None
    frame_count: Any = None
    frame_duration_ms: Any = None
    svg: Any = None
    markup: Any = None

    def refuse_unsupported(self) -> None:
        """Raise UnsupportedParameter for the first field that is known and not honoured."""
        for name in REFUSED:
            if getattr(self, name) is not None:
                raise UnsupportedParameter(f"`{name}` is not supported by this server.", param=name)
        if self.background == "transparent":
            raise UnsupportedParameter("Images have an opaque background.", param="background")
        for name in ("partial_images", "stream_progress"):
            if getattr(self, name) and not self.stream:
                raise RequestError(f"`{name}` needs `stream: true`.", param=name)
        if self.input_fidelity == "high":
            message = "`input_fidelity` must be low; what a `mask` leaves out stays as it is."
            raise UnsupportedParameter(message, param="input_fidelity")
        if self.output_compression not in (None, 100) and self.output_format == "png":  # OpenAI's default is 100
            raise RequestError("`output_compression` needs `output_format` webp or jpeg.", param="output_compression")
        if not self.prompt.strip():
            raise RequestError("`prompt` must not be empty.", param="prompt")
        refuse_adapter_tags(prompt=self.prompt, negative_prompt=self.negative_prompt)
        self.refuse_foreign()

    def dimensions(self, multiple: int) -> tuple[int, int] | None:
        """Return width and height; None for ``auto``.  Raises RequestError."""
        return dimensions(self.merged_size(self.size), multiple)

    def field_of(self, param: str | None) -> str | None:
        """Return the request's field that gives the workflow's input ``param``."""
        return self.foreign_name(param) or REQUEST_NAMES.get(param or "", param)

    @property
    def quality_steps(self) -> int | None:
        """The steps of the named quality; None where none is named, or steps are."""
        if self.num_inference_steps is not None:
            return None
        quality = self.quality or ""
        return QUALITY_STEPS.get(DALL_E_QUALITY.get(quality, quality))

    def _check_guidance_interval(self) -> None:
        start, end = self.guidance_start or 0.0, 1.0 if self.guidance_end is None else self.guidance_end
        if start >= end:
            raise RequestError("`guidance_start` must be below `guidance_end`.", param="guidance_start")

    def inputs(self) -> dict[str, object]:
        """Return the workflow inputs that the body gives, by the workflow's names.  Raises RequestError."""
        self._check_guidance_interval()
        values = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "steps": self.num_inference_steps,
            "guidance": self.guidance_scale,
            "seed": None if self.seed == RANDOM_SEED else self.seed,
            "n": self.n,
            "sampler": self.sampler,
            "tier": self.tier,
            "guidance_start": self.guidance_start,
            "guidance_end": self.guidance_end,
        }
        return {name: value for name, value in values.items() if value is not None}


class LoraUse(BaseModel):
    """An adapter by name, its scale, and the part of the steps it is at work in."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: Annotated[str, Field(max_length=256)]
    scale: Annotated[float, if_null(1.0, float | None)] = 1.0
    start: Annotated[float, if_null(0.0, float | None)] = 0.0
    end: Annotated[float, if_null(1.0, float | None)] = 1.0


class ControlNetUse(BaseModel):
    """A ControlNet by name, its image as base64 of a file, its weight, and the part of the steps it is at work in."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: Annotated[str, Field(max_length=256)]
    image: str
    weight: Annotated[float, if_null(1.0, float | None)] = 1.0
    start: Annotated[float, if_null(0.0, float | None)] = 0.0
    end: Annotated[float, if_null(1.0, float | None)] = 1.0


class GenerationRequest(ImageRequest):
    """A generation's fields: what all requests have, and what may be added to the model."""

    lora: tuple[LoraUse, ...] | None = None
    controlnet: tuple[ControlNetUse, ...] | None = None

    @property
    def addons(self) -> frozenset[str]:
        """The given fields that only some workflows take."""
        return frozenset(name for name in ADDONS if getattr(self, name))

    def refuse_unsupported(self) -> None:
        """Also raise RequestError for adapters and ControlNets with wrong names, amounts or ranges."""
        super().refuse_unsupported()
        _check_adapters(self.lora)
        nets = [(use.name, use.weight, use.start, use.end) for use in self.controlnet or ()]
        check_requests("controlnet", "a ControlNet", nets)

    def inputs(self) -> dict[str, object]:
        """Return the workflow inputs that the body gives, without control images, which must be decoded first."""
        return super().inputs() | _adapter_inputs(self.lora)

    def field_of(self, param: str | None) -> str | None:
        """Return the request's field behind ``param``; an entry that it names, as in `lora[NAME]`, by its index."""
        entry = ENTRY.fullmatch(param or "")
        if entry is None:
            return super().field_of(param)
        names = [use.name for use in getattr(self, entry["field"]) or ()]
        if entry["name"] not in names:
            return entry["field"]
        return f"{entry['field']}[{names.index(entry['name'])}]{entry['part'] or '.name'}"


class EditRequest(ImageRequest):
    """An edit's fields besides its files; they arrive as form strings."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)

    lora: Json[tuple[LoraUse, ...] | None] | None = None  # a form has text alone
    extra_params: Json[dict[str, Any] | None] | None = None
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    template: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    caption: Caption = None
    mask_dilation: Annotated[int, Field(ge=0, le=MAX_SPREAD)] = 0
    mask_feather: Annotated[int, Field(ge=0, le=MAX_SPREAD)] = 4
    reuse: Literal["exact", "high", "balanced"] = "high"

    def refuse_unsupported(self) -> None:
        """Also raise RequestError for adapters with wrong names, amounts or ranges."""
        super().refuse_unsupported()
        refuse_adapter_tags(caption=self.caption)
        _check_adapters(self.lora)

    def refuse_without_mask(self, is_masked: bool) -> None:
        """Raise RequestError for a field that means nothing without a mask."""
        present = {name for name in self.model_fields_set if getattr(self, name) is not None}  # a blank caption is None
        for name in ("mask_dilation", "mask_feather", "reuse", "caption"):
            if name in present and not is_masked:
                raise RequestError(f"`{name}` needs a `mask`.", param=name)

    def inputs(self) -> dict[str, object]:
        """Return the workflow inputs that the form gives."""
        optional = {"strength": self.strength, "caption": self.caption}
        values = {name: value for name, value in optional.items() if value is not None}
        return super().inputs() | values | _adapter_inputs(self.lora)


def _check_adapters(uses: tuple[LoraUse, ...] | None) -> None:
    check_requests("lora", "an adapter", [(use.name, use.scale, use.start, use.end) for use in uses or ()])


def _adapter_inputs(uses: tuple[LoraUse, ...] | None) -> dict[str, object]:
    """Return the workflow's input of adapters; empty without any."""
    requests = tuple(AdapterRequest(use.name, use.scale, use.start, use.end) for use in uses or ())
    return {"lora": requests} if requests else {}


# The request's fields by the workflow's inputs, where the names differ.
REQUEST_NAMES = {"steps": "num_inference_steps", "guidance": "guidance_scale", "width": "size", "height": "size"}
