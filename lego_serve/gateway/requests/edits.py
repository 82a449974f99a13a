"""Edits: reads the form, then binds the workflow's inputs and decodes the image and the mask."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from fastapi import Request
from PIL import Image

from lego_serve.core.editing.edit import EditInput, image_key, is_described
from lego_serve.core.editing.reuse import Quality, ReuseStats
from lego_serve.core.jobs.job import GeneratedImage, JobResult, TaskStats
from lego_serve.core.nodes.messages import SourceImage
from lego_serve.core.nodes.requests import ShowAdapter
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import RequestError, with_param
from lego_serve.gateway.context import Context
from lego_serve.gateway.media.codec import decode_sized_upload, fit_size, to_array
from lego_serve.gateway.media.masks import decode_mask, edit_weights
from lego_serve.gateway.media.workers import UploadThread
from lego_serve.gateway.requests.job_request import UNDECODED, ImageJobRequest, bind_inputs, settle_tier, size_inputs
from lego_serve.gateway.requests.multipart import read_form
from lego_serve.gateway.requests.schemas import EditRequest
from lego_serve.gateway.settings import Caller
from lego_serve.gateway.template_store import Template


@dataclass(frozen=True, slots=True)
class EditForm:
    """The fields and files of an edit."""

    body: EditRequest
    image: bytes | None
    mask: bytes | None

    @property
    def input_name(self) -> str:
        """The workflow's input that takes the image: as a whole, or where a mask says."""
        return "image" if self.mask is None else "edit"


@dataclass(frozen=True, slots=True)
class EditSource:
    """What an edit changes: an uploaded image, or that of a template; ``size`` is its own, before it was
    scaled down.
    """

    image: Image.Image
    size: tuple[int, int]
    template: Template | None = None


@asynccontextmanager
async def read_edit(request: Request) -> AsyncIterator[EditForm]:
    """Yield the form of a request; its bytes count as long as the block lasts.

    Raises WrongMediaType, CapacityError or RequestError.
    """
    async with read_form(request, EditRequest, ("image", "mask")) as form:
        body, files = form.body, form.files
        if "image" in files and body.template is not None:
            raise RequestError("An edit has an `image` or a `template`, not both.", param="template")
        if "image" not in files and body.template is None:
            raise RequestError("Exactly one `image`, or a `template`, is needed.", param="image", code="missing")
        body.refuse_unsupported()
        body.refuse_without_mask("mask" in files)
        contents = {name: await file.read() for name, file in files.items()}
        yield EditForm(body, image=contents.get("image"), mask=contents.get("mask"))


async def find_template(context: Context, caller: Caller, body: EditRequest) -> Template | None:
    """Return the template that an edit names; None where it brings its own image.  Raises NotFound."""
    return None if body.template is None else await context.template(caller, body.template)


async def prepare_edit(
    context: Context, caller: Caller, form: EditForm, *, workflow: Workflow, template: Template | None
) -> ImageJobRequest:
    """Bind an edit's inputs and decode its image and mask, in one turn of its tenant.  Raises RequestError."""
    async with context.images.turn(caller.tenant, caller.weight) as thread:
        prepared = await _decode(thread, context, caller, form, workflow=workflow, template=template)
    if prepared.result is not None:
        await _check_adapters(context, workflow, form.body)
    return prepared


async def _check_adapters(context: Context, workflow: Workflow, body: EditRequest) -> None:
    """Have the adapters checked of an edit that no node works for: whether they are right does not hang on its mask.

    Raises RequestError about the entry, as their node does, and the errors of a node that cannot be asked.
    """
    models = sorted({node.model for node in workflow.nodes.values() if node.kind == "load_adapters"})
    for index, use in enumerate(body.lora or ()):
        for model in models:
            try:
                await context.admin.adapters(model, ShowAdapter(use.name))
            except RequestError as error:
                raise with_param(error, f"lora[{index}].name") from None


async def _decode(
    thread: UploadThread,
    context: Context,
    caller: Caller,
    form: EditForm,
    *,
    workflow: Workflow,
    template: Template | None,
) -> ImageJobRequest:
    body, settings = form.body, context.settings
    source = await _decode_source(thread, context, caller, form, template)
    size = _edit_size(body, workflow, source, settings.size_multiple)
    extra = size_inputs(size) | {form.input_name: UNDECODED}
    if form.mask is not None:
        extra |= caption_input(workflow, body.caption, template)
    inputs = bind_inputs(workflow, body, extra)
    tier = settle_tier(workflow, body, inputs, settings.tiers, is_crowded=context.admission.is_crowded)
    if form.mask is None:
        inputs["image"] = SourceImage(await thread.read(to_array, source.image, *size))
        return ImageJobRequest(workflow=workflow, body=body, inputs=inputs, caller=caller, tier=tier)
    edit = await thread.read(
        _decode_edit,
        form,
        source,
        size,
        tenant=caller.tenant,
        max_pixels=settings.max_image_pixels,
        is_captioned=is_described(inputs),
    )
    inputs["edit"] = context.quality_checks.plan(workflow, edit)
    result = None
    if not np.any(np.asarray(edit.weight)):
        pixels = np.asarray(edit.pixels)
        result = await thread.read(_unchanged_result, pixels, inputs.get("seed"), body, settings.size_multiple)
    return ImageJobRequest(workflow, body, inputs, caller, result, tier)


def own_size(workflow: Workflow, image: Image.Image, multiple: int) -> tuple[int, int]:
    """Return an image's size (width, height) as near as the workflow can have it."""
    bounds = workflow.inputs["width"]
    return fit_size(image, multiple, low=int(bounds.min or 16), high=int(bounds.max or 4096))


def caption_input(workflow: Workflow, caption: str | None, template: Template | None) -> dict[str, object]:
    """Return the workflow's input of an edit's caption: the request's, or else its template's; empty without either.

    A workflow that takes no caption is given the request's all the same, and refuses it; a template's is left out.
    """
    if caption is not None:
        return {"caption": caption}
    if template is None or template.caption is None or "caption" not in workflow.inputs:
        return {}
    return {"caption": template.caption}


async def _decode_source(
    thread: UploadThread, context: Context, caller: Caller, form: EditForm, template: Template | None
) -> EditSource:
    if template is not None:
        image = await context.template_image(thread, caller, template)
        return EditSource(image, image.size, template)
    assert form.image is not None, "a form without an image has a template"
    return EditSource(*await thread.read(decode_sized_upload, form.image, context.settings.max_image_pixels))


def _edit_size(body: EditRequest, workflow: Workflow, source: EditSource, multiple: int) -> tuple[int, int]:
    """Return the size (width, height) of an edit.  Raises RequestError where it is not that of the template."""
    size, template = body.dimensions(multiple), source.template
    if template is None:
        return size or own_size(workflow, source.image, multiple)
    if size not in (None, (template.width, template.height)):
        raise RequestError(f"The template is {template.width}x{template.height}; leave `size` out.", param="size")
    return template.width, template.height


def _decode_edit(
    form: EditForm, source: EditSource, size: tuple[int, int], *, tenant: str, max_pixels: int, is_captioned: bool
) -> EditInput:
    """Decode the mask, and bring it and the image to a size (width, height).  Raises RequestError."""
    assert form.mask is not None, "an edit of a whole image has no mask to decode"
    body, template = form.body, source.template
    mask = decode_mask(form.mask, source.size, max_pixels)
    pixels = to_array(source.image, *size)
    return EditInput(
        pixels=pixels,
        weight=edit_weights(mask, size, dilation=body.mask_dilation, feather=body.mask_feather),
        quality=Quality(body.reuse),
        image=image_key(tenant, pixels.shape, pixels.tobytes()),
        pin="" if template is None else template.pin,
        is_described=is_captioned,
    )


def _unchanged_result(pixels: np.ndarray, seed: object, body: EditRequest, token_pixels: int) -> JobResult:
    """Return the result of a mask that changes nothing: the image as it is, with no model's help.

    It has a seed and statistics, as any edit's result has.
    """
    height, width, _ = pixels.shape
    first_seed = secrets.randbelow(2**32) if seed is None else int(str(seed))
    rgb = pixels.tobytes()
    images = [GeneratedImage(width, height, rgb, seed=(first_seed + index) % 2**32) for index in range(body.n or 1)]
    rows = (height // token_pixels) * (width // token_pixels)
    reuse = ReuseStats(body.reuse, masked_steps=0, steps=0, active_rows=0, rows=rows, primed=0)
    return JobResult(tuple(images), 0.0, stats={"edit": TaskStats(reuse=reuse)})
