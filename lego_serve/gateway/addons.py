"""What a request adds to a model: which workflow takes it, and its control pictures decoded."""

import asyncio
import base64
import binascii
from collections.abc import Mapping

import numpy as np

from lego_serve.core.addons import ControlAsk
from lego_serve.core.workflow import Workflow
from lego_serve.errors import NotFound, RequestError, UnsupportedParameter, about
from lego_serve.gateway.context import Context
from lego_serve.gateway.pictures import decode_upload, to_array
from lego_serve.gateway.running import bind_request
from lego_serve.gateway.schemas import ADDONS, ControlNetUse, GenerationRequest


def addon_workflow(context: Context, workflow: Workflow, body: GenerationRequest) -> Workflow:
    """The workflow for what a request adds: the one it names, or else the one of that name with it at the end.

    Raises UnsupportedParameter where there is none.
    """
    wanted = [name for name in ADDONS if name in body.addons]
    missing = [name for name in wanted if name not in workflow.inputs]
    if not missing:
        return workflow
    sibling = context.runner.workflows.get("-".join([workflow.name, *wanted]))
    if sibling is None or not set(wanted) <= set(sibling.inputs):
        raise UnsupportedParameter(f"This model takes no `{missing[0]}`.", param=missing[0])
    return sibling


async def control_input(
    context: Context, workflow: Workflow, body: GenerationRequest, sized: Mapping[str, object]
) -> dict[str, object]:
    """The workflow's input of control pictures, decoded and at the size of the image.  Raises RequestError."""
    uses = body.controlnet or ()
    if not uses:
        return {}
    known = frozenset[str]().union(*(context.settings.controlnets.get(m, ()) for m in workflow.models))
    for index, use in enumerate(uses):
        if use.name not in known:
            where = f"controlnet[{index}].name"
            raise NotFound("There is no ControlNet of this name.", param=where, code="controlnet_not_found")
    # Everything else is checked first, and then the work of decoding is done.
    inputs = bind_request(workflow, {"seed": 0} | body.inputs() | dict(sized) | {"controlnet": ()})
    size = int(str(inputs["width"])), int(str(inputs["height"]))
    return {"controlnet": await asyncio.to_thread(_decoded, uses, size, context.settings.max_image_pixels)}


def _decoded(uses: tuple[ControlNetUse, ...], size: tuple[int, int], max_pixels: int) -> tuple[ControlAsk, ...]:
    asks = []
    for index, use in enumerate(uses):
        try:
            pixels = _pixels(use.image, size, max_pixels // len(uses))
        except RequestError as error:
            raise about(error, f"controlnet[{index}].image") from None
        asks.append(ControlAsk(use.name, pixels, use.weight, use.start, use.end))
    return tuple(asks)


def _pixels(text: str, size: tuple[int, int], max_pixels: int) -> np.ndarray:
    """A picture's pixels; ``data:image/...;base64,`` before its base64 is taken too.  Raises RequestError."""
    head, comma, rest = text.partition(",")
    if comma and head.startswith("data:image/") and head.endswith(";base64"):
        text = rest
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("`image` must be base64 of a picture.", param="image", code="invalid_image") from None
    return to_array(decode_upload(data, max_pixels), *size)
