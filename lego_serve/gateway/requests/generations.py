"""Generations: reads the body, then binds the workflow's inputs and decodes control images."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from lego_serve.core.workflow.graph import Workflow
from lego_serve.gateway.context import Context
from lego_serve.gateway.requests.addons import check_controlnets, decode_controlnets
from lego_serve.gateway.requests.job_request import UNDECODED, ImageJobRequest, bind_inputs, settle_tier, size_inputs
from lego_serve.gateway.requests.json_body import held_body
from lego_serve.gateway.requests.schemas import GenerationRequest
from lego_serve.gateway.settings import Caller


@asynccontextmanager
async def read_generation(request: Request) -> AsyncIterator[GenerationRequest]:
    """Yield the body of a request; its bytes count as long as the block lasts.  Raises CapacityError, RequestError."""
    async with held_body(request, GenerationRequest) as body:
        body.refuse_unsupported()
        yield body


async def prepare_generation(
    context: Context, caller: Caller, body: GenerationRequest, workflow: Workflow
) -> ImageJobRequest:
    """Bind a generation's inputs and decode its control images.  Raises RequestError."""
    uses = body.controlnet or ()
    check_controlnets(context.settings, workflow, uses)
    extra = size_inputs(body.dimensions(context.settings.size_multiple))
    if uses:
        extra["controlnet"] = UNDECODED
    inputs = bind_inputs(workflow, body, extra)
    tier = settle_tier(workflow, body, inputs, context.settings.tiers, is_crowded=context.admission.is_crowded)
    if uses:
        size = int(str(inputs["width"])), int(str(inputs["height"]))
        async with context.images.turn(caller.tenant, caller.weight) as thread:
            inputs["controlnet"] = await thread.read(decode_controlnets, uses, size, context.settings.max_image_pixels)
        # Megabytes of base64 would stay in memory as long as the job runs.
        body = body.model_copy(update={"controlnet": tuple(use.model_copy(update={"image": ""}) for use in uses)})
    return ImageJobRequest(workflow=workflow, body=body, inputs=inputs, caller=caller, tier=tier)
