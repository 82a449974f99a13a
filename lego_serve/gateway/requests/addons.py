"""What a request adds to a model: which workflow takes it, and its control images decoded."""

import asyncio
import base64
import binascii
from collections.abc import Collection, Mapping

import numpy as np

from lego_serve.core.addons import ControlNetRequest
from lego_serve.core.suggest import did_you_mean
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import NotFound, RequestError, UnsupportedParameter, with_param
from lego_serve.gateway.context import Context
from lego_serve.gateway.media.codec import decode_upload, to_array
from lego_serve.gateway.requests.schemas import ADDONS, ControlNetUse, GenerationRequest
from lego_serve.gateway.run_job import bind_request


def addon_workflow(context: Context, workflow: Workflow, body: GenerationRequest) -> Workflow:
    """The workflow for what a request adds.  Raises UnsupportedParameter where there is none."""
    found = sibling_workflow(context.runner.workflows, workflow, body.addons)
    if found is None:
        missing = next(name for name in ADDONS if name in body.addons and name not in workflow.inputs)
        raise UnsupportedParameter(f"Model {workflow.name} takes no `{missing}`.", param=missing)
    return found


def sibling_workflow(workflows: Mapping[str, Workflow], workflow: Workflow, addons: Collection[str]) -> Workflow | None:
    """The workflow that takes these, and what the one that is named takes: itself, or the one beside it by its name.

    That is called as it is with what it lacks at the end, or as it is without any with all of them at the end.
    """
    missing = [name for name in ADDONS if name in addons and name not in workflow.inputs]
    if not missing:
        return workflow
    plain = workflow.name
    for name in reversed(ADDONS):
        plain = plain.removesuffix(f"-{name}") if name in workflow.inputs else plain
    wanted = [name for name in ADDONS if name in addons or name in workflow.inputs]
    beside = (workflows.get("-".join(words)) for words in ([workflow.name, *missing], [plain, *wanted]))
    return next((found for found in beside if found is not None and set(wanted) <= set(found.inputs)), None)


def controlnets_of(context: Context, workflow: Workflow) -> frozenset[str]:
    """The ids of the ControlNets of a workflow's models."""
    return frozenset[str]().union(*(context.settings.controlnets.get(model, ()) for model in workflow.models))


async def control_input(
    context: Context, workflow: Workflow, body: GenerationRequest, sized: Mapping[str, object]
) -> dict[str, object]:
    """The workflow's input of control images, decoded and at the size of the image.  Raises RequestError."""
    uses = body.controlnet or ()
    if not uses:
        return {}
    known = controlnets_of(context, workflow)
    for index, use in enumerate(uses):
        if use.name not in known:
            said = did_you_mean("ControlNet", use.name, known, "GET /v1/models lists them")
            raise NotFound(said, param=f"controlnet[{index}].name", code="controlnet_not_found")
    # Everything else is checked first, and then the work of decoding is done.
    inputs = bind_request(workflow, {"seed": 0} | body.inputs() | dict(sized) | {"controlnet": ()})
    size = int(str(inputs["width"])), int(str(inputs["height"]))
    return {"controlnet": await asyncio.to_thread(_decoded, uses, size, context.settings.max_image_pixels)}


def _decoded(uses: tuple[ControlNetUse, ...], size: tuple[int, int], max_pixels: int) -> tuple[ControlNetRequest, ...]:
    asks = []
    for index, use in enumerate(uses):
        try:
            pixels = _pixels(use.image, size, max_pixels // len(uses))
        except RequestError as error:
            raise with_param(error, f"controlnet[{index}].image") from None
        asks.append(ControlNetRequest(use.name, pixels, use.weight, use.start, use.end))
    return tuple(asks)


def _pixels(text: str, size: tuple[int, int], max_pixels: int) -> np.ndarray:
    """An image's pixels; ``data:image/...;base64,`` before its base64 is taken too.  Raises RequestError."""
    head, comma, rest = text.partition(",")
    if comma and head.startswith("data:image/") and head.endswith(";base64"):
        text = rest
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("`image` must be base64 of an image.", param="image", code="invalid_image") from None
    return to_array(decode_upload(data, max_pixels), *size)
