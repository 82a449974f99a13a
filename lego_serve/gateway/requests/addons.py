"""The ControlNets a request adds to a model: which are known, and their control images decoded."""

from collections.abc import Sequence

import numpy as np

from lego_serve.core.addons import ControlNetRequest
from lego_serve.core.suggest import did_you_mean
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import NotFound, RequestError, with_param
from lego_serve.gateway.media.base64_text import decode_base64
from lego_serve.gateway.media.codec import decode_upload, to_array
from lego_serve.gateway.media.colours import BLACK
from lego_serve.gateway.requests.schemas import ControlNetUse
from lego_serve.gateway.settings import GatewaySettings


def known_controlnets(settings: GatewaySettings, workflow: Workflow) -> frozenset[str]:
    """Return the ids of the ControlNets of a workflow's models."""
    return frozenset[str]().union(*(settings.controlnets.get(model, ()) for model in workflow.models))


def check_controlnets(settings: GatewaySettings, workflow: Workflow, uses: Sequence[ControlNetUse]) -> None:
    """Raise NotFound for the first ControlNet that the workflow's models do not have."""
    known = known_controlnets(settings, workflow) if uses else frozenset[str]()
    for index, use in enumerate(uses):
        if use.name not in known:
            message = did_you_mean("ControlNet", use.name, known, "GET /v1/models lists them")
            raise NotFound(message, param=f"controlnet[{index}].name", code="controlnet_not_found")


def decode_controlnets(
    uses: Sequence[ControlNetUse], size: tuple[int, int], max_pixels: int
) -> tuple[ControlNetRequest, ...]:
    """Return the workflow's input of ControlNets, each image at the size (width, height).  Raises RequestError.

    ``max_pixels`` bounds all uploaded images together.
    """
    requests = []
    for index, use in enumerate(uses):
        try:
            pixels = _decode_base64_image(use.image, size, max_pixels // len(uses))
        except RequestError as error:
            raise with_param(error, f"controlnet[{index}].image") from None
        requests.append(ControlNetRequest(use.name, pixels, weight=use.weight, start=use.start, end=use.end))
    return tuple(requests)


def _decode_base64_image(text: str, size: tuple[int, int], max_pixels: int) -> np.ndarray:
    """Return the pixels of base64, or of a data URL, at a size.  Raises RequestError.

    What is transparent is black: nothing is drawn there.
    """
    try:
        data = decode_base64(text)
    except ValueError:
        raise RequestError("`image` must be base64 of an image.", param="image", code="invalid_image") from None
    return to_array(decode_upload(data, max_pixels, BLACK), *size)
