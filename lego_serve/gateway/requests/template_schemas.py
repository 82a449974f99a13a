"""The bodies of requests about templates: an image to register, and the edits to warm it for."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from lego_serve.errors import RequestError
from lego_serve.gateway.requests.json_body import read_body
from lego_serve.gateway.requests.multipart import read_form
from lego_serve.gateway.requests.schemas import MAX_PROMPT_CHARACTERS, Caption, if_null, refuse_adapter_tags

NAME = re.compile(r"[a-z0-9_-]{1,64}")
MAX_STEPS = 200
WARM_SCHEMA: dict[str, Any] = {  # of a form's text
    "anyOf": [{"enum": ["true", "false"]}, {"type": "integer", "minimum": 1, "maximum": MAX_STEPS}]
}
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]


class WarmRequest(BaseModel):
    """The edits that a template is to be ready for; what is left out is the workflow's own, or the template's."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    steps: Steps | None = None
    guidance: Annotated[float, Field(ge=0, le=100)] | None = None
    sampler: Annotated[str, Field(max_length=64)] | None = None
    tier: Annotated[str, Field(max_length=64)] | None = None
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)] | None = None
    caption: Caption = None
    wait: Annotated[bool, if_null(False, bool | None)] = False

    def check(self) -> None:
        """Raise UnsupportedParameter for a text in which a tag names an adapter."""
        refuse_adapter_tags(negative_prompt=self.negative_prompt, caption=self.caption)


class TemplateRequest(BaseModel):
    """A template's fields besides its image; they arrive as form strings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    size: str | None = None
    name: str | None = None
    caption: Caption = None
    pin: bool | None = None
    warm: Annotated[str | None, WithJsonSchema(WARM_SCHEMA)] = None
    tier: Annotated[str, Field(max_length=64)] | None = None

    def check(self) -> None:
        """Raise RequestError for a wrong name, and for a `warm` that is neither a truth value nor a number of steps."""
        if self.name is not None and NAME.fullmatch(self.name) is None:
            raise RequestError("`name` must be 1 to 64 of a-z, 0-9, _ and -.", param="name")
        refuse_adapter_tags(caption=self.caption)
        is_number = self.steps is not None and 1 <= self.steps <= MAX_STEPS
        if self.warm not in (None, "true", "false") and not is_number:
            raise RequestError(f"`warm` must be true, false or a number of steps from 1 to {MAX_STEPS}.", param="warm")

    @property
    def is_warm(self) -> bool:
        """Whether the template is to be warmed at once."""
        return self.warm not in (None, "false")

    @property
    def steps(self) -> int | None:
        """The number of steps in `warm`; None where it has none."""
        digits = self.warm or ""
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 3 else None

    @property
    def edits(self) -> WarmRequest:
        """The edits that the template is to be ready for."""
        return WarmRequest(steps=self.steps, tier=self.tier, caption=self.caption)


@dataclass(frozen=True, slots=True)
class TemplateForm:
    """The fields and the image of a template to register."""

    body: TemplateRequest
    image: bytes


@asynccontextmanager
async def read_template(request: Request) -> AsyncIterator[TemplateForm]:
    """Yield the form of a request; its bytes count as long as the block lasts.

    Raises WrongMediaType, CapacityError or RequestError.
    """
    async with read_form(request, TemplateRequest, ("image",)) as form:
        if "image" not in form.files:
            raise RequestError("Exactly one `image` is needed.", param="image", code="missing")
        form.body.check()
        yield TemplateForm(form.body, await form.files["image"].read())


async def read_warm(request: Request) -> WarmRequest:
    """Return what to warm for; an empty body leaves all to the workflow.  Raises WrongMediaType or RequestError."""
    warm = await read_body(request, WarmRequest, empty=WarmRequest())
    warm.check()
    return warm
