"""The bodies that ComfyUI's clients send, as leniently as ComfyUI reads them."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lego_serve.compat.comfyui.faults import PromptRefused
from lego_serve.compat.comfyui.paths import PROMPT_ID


class PromptBody(BaseModel):
    """What ``POST /prompt`` sends: the graph, who listens, and perhaps an id of the client's own."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    prompt: dict[str, Any]
    prompt_id: Annotated[str, Field(pattern=re.compile(rf"^(?:{PROMPT_ID.pattern})\Z"))] | None = None
    client_id: Annotated[str, Field(max_length=256)] | None = None
    number: float | None = None
    front: bool | None = None
    extra_data: dict[str, Any] = {}

    @property
    def goes_first(self) -> bool:
        """Whether it is to run before all that waits: ComfyUI numbers such prompts below zero."""
        return bool(self.front) or (self.number is not None and self.number < 0)


class ClearBody(BaseModel):
    """What ``POST /queue`` and ``POST /history`` send: all is to go, or some prompts are."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    clear: bool | None = None
    delete: list[str] = []


class InterruptBody(BaseModel):
    """What ``POST /interrupt`` sends: nothing, or the prompt that is to stop."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt_id: str | None = None


def read_prompt_body(body: object) -> PromptBody:
    """Return the fields of a ``/prompt`` body.  Raises PromptRefused."""
    try:
        return PromptBody.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if place == "prompt" or not isinstance(body, dict):
            raise PromptRefused(
                "no_prompt", "No prompt provided", "`prompt` must be an object of nodes by id"
            ) from None
        raise PromptRefused("invalid_prompt", "Invalid request", f"{place}: {first['msg']}") from None
