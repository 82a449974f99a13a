"""A form that asks for an edit, read into what a workflow takes: a whole image, or an image where a mask says."""

import asyncio
import secrets
from dataclasses import dataclass, replace

import numpy as np
from fastapi import Request
from PIL import Image
from pydantic import ValidationError

from lego_serve.core.editing.edit import EditInput, image_key, is_described
from lego_serve.core.editing.reuse import Quality, ReuseStats
from lego_serve.core.jobs.job import GeneratedImage, JobResult, TaskStats
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import RequestError, UnsupportedParameter
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import validation_error
from lego_serve.gateway.media.codec import decode_upload, fit_size, to_array
from lego_serve.gateway.media.masks import decode_mask, weights_of
from lego_serve.gateway.requests.multipart import read_form, split_form
from lego_serve.gateway.requests.schemas import EditRequest
from lego_serve.gateway.run_job import ImageJobRequest, bind_request
from lego_serve.gateway.settings import Caller
from lego_serve.gateway.template_store import Template

SUFFIXES = {"image": "-img2img", "edit": "-edit"}  # of the built-in workflow that takes such an input


@dataclass(frozen=True, slots=True)
class EditForm:
    """The fields and files of an edit."""

    body: EditRequest
    image: bytes | None
    mask: bytes | None


@dataclass(frozen=True, slots=True)
class EditSource:
    """What an edit changes: an uploaded image, or that of a template."""

    image: Image.Image
    template: Template | None = None


async def read_edit(request: Request) -> EditForm:
    """The form of a request.  Raises RequestError."""
    form = await read_form(request)
    try:
        fields, files = split_form(form, ("image", "mask"))
        if "image" in files and "template" in fields:
            raise RequestError("An edit has an `image` or a `template`, not both.", param="template")
        if "image" not in files and "template" not in fields:
            raise RequestError("Exactly one `image`, or a `template`, is needed.", param="image", code="missing")
        try:
            body = EditRequest.model_validate(fields)
        except ValidationError as error:
            raise validation_error(error) from None
        body.refuse_unsupported()
        body.refuse_without_mask("mask" in files)
        read = {kind: await file.read() for kind, file in files.items()}
        return EditForm(body, read.get("image"), read.get("mask"))
    finally:
        await form.close()


async def edit_order(context: Context, form: EditForm, caller: Caller) -> ImageJobRequest:
    """What a form asks of the workflow it names.  Raises RequestError."""
    body, most = form.body, context.settings.max_image_pixels
    template = None if body.template is None else await context.template(caller, body.template)
    named = context.workflow(body.model or (None if template is None else template.model))
    taken = "image" if form.mask is None else "edit"
    plain = workflow_taking(context, named, taken)
    _check_template(plain, template)
    workflow = _adapted(context, plain, body)
    subject = await _subject(context, form, caller, template)
    size = _size(context, body, workflow, subject)
    sized: dict[str, object] = {"width": size[0], "height": size[1]}
    if form.mask is not None:
        sized |= caption_of(workflow, body.caption, template)
    inputs = bind_request(workflow, body.inputs() | sized | {taken: b""})  # bounds first, then the work of resizing
    if form.mask is None:
        pixels = await asyncio.to_thread(to_array, subject.image, *size)
        return ImageJobRequest(workflow, body, sized | {"image": {"pixels": pixels}}, caller)
    mask = await asyncio.to_thread(decode_mask, form.mask, subject.image.size, most)
    asked = await asyncio.to_thread(_ask, subject, mask, size, body, caller)
    ask = context.quality_checks.planned(workflow, replace(asked, is_described=is_described(inputs)))
    nothing = None
    if not np.any(np.asarray(ask.weight)):
        nothing = _unchanged(np.asarray(ask.pixels), body, context.settings.size_multiple)
    return ImageJobRequest(workflow, body, sized | {"edit": ask}, caller, nothing)


def workflow_taking(context: Context, workflow: Workflow, taken: str, param: str | None = None) -> Workflow:
    """The workflow for such an input: the one named, or else the one of that name with the input's suffix.

    Raises UnsupportedParameter, about the field that asks for it unless another is given.
    """
    if taken in workflow.inputs:
        return workflow
    sibling = context.runner.workflows.get(workflow.name + SUFFIXES[taken])
    if sibling is None or taken not in sibling.inputs:
        param = param or ("image" if taken == "image" else "mask")
        what = "edit images" if taken == "image" else "edit parts of images"
        raise UnsupportedParameter(f"This model does not {what}.", param=param)
    return sibling


def own_size(context: Context, workflow: Workflow, image: Image.Image) -> tuple[int, int]:
    """The size of an image as a workflow can have it."""
    bounds = workflow.inputs["width"]
    return fit_size(image, context.settings.size_multiple, int(bounds.min or 16), int(bounds.max or 4096))


async def _subject(context: Context, form: EditForm, caller: Caller, template: Template | None) -> EditSource:
    if template is None:
        assert form.image is not None
        return EditSource(await asyncio.to_thread(decode_upload, form.image, context.settings.max_image_pixels))
    return EditSource(await context.template_image(caller, template), template)


def _size(context: Context, body: EditRequest, workflow: Workflow, subject: EditSource) -> tuple[int, int]:
    """The size an edit has.  Raises RequestError where it does not go with its template."""
    size, template = body.dimensions(context.settings.size_multiple), subject.template
    if template is None:
        return size or own_size(context, workflow, subject.image)
    if size not in (None, (template.width, template.height)):
        raise RequestError(f"The template is {template.width}x{template.height}; leave `size` out.", param="size")
    return template.width, template.height


def _check_template(workflow: Workflow, template: Template | None) -> None:
    """Raise RequestError where a template is of another workflow than the one named.

    What it reads is the same for the sibling that adapters lead to, so that one is not asked about.
    """
    if template is not None and "edit" in workflow.inputs and workflow.name != template.workflow:
        raise RequestError("The template was registered for another model; leave `model` out.", param="model")


def _ask(subject: EditSource, mask: np.ndarray, size: tuple[int, int], body: EditRequest, caller: Caller) -> EditInput:
    pixels = to_array(subject.image, *size)
    weight = weights_of(mask, size, body.mask_dilation, body.mask_feather)
    image = image_key(caller.tenant, pixels.shape, pixels.tobytes())
    return EditInput(pixels, weight, Quality(body.reuse), image, subject.template.pin if subject.template else "")


def _unchanged(pixels: np.ndarray, body: EditRequest, token_pixels: int) -> JobResult:
    """What comes of a mask that changes nothing: the image as it is, without a model's help.

    Its answer has what that of any edit has: a seed, by chance where none was asked for, and what was computed.
    """
    height, width, _ = pixels.shape
    first = secrets.randbelow(2**32) if body.seed is None else body.seed
    seeds = [(first + i) % 2**32 for i in range(body.n or 1)]
    rows = (height // token_pixels) * (width // token_pixels)
    stats = {"edit": TaskStats(reuse=ReuseStats(body.reuse, 0, 0, 0, rows, 0))}
    return JobResult(tuple(GeneratedImage(width, height, pixels.tobytes(), seed) for seed in seeds), 0.0, stats=stats)


def _adapted(context: Context, workflow: Workflow, body: EditRequest) -> Workflow:
    """The workflow for what an edit adds: the one that takes its image, or else the one of that name with `-lora`."""
    if not body.lora or "lora" in workflow.inputs:
        return workflow
    sibling = context.runner.workflows.get(f"{workflow.name}-lora")
    if sibling is None or not {"lora", *workflow.inputs} <= set(sibling.inputs):
        raise UnsupportedParameter("This model takes no `lora`.", param="lora")
    return sibling


def caption_of(workflow: Workflow, said: str | None, template: Template | None) -> dict[str, object]:
    """The workflow's input of an edit's caption: what its request says, or else its template's; none without either.

    Where the workflow takes none, one that is said is given all the same, to be refused; a template's is left out.
    """
    if said is not None:
        return {"caption": said}
    kept = None if template is None else template.caption
    return {} if kept is None or "caption" not in workflow.inputs else {"caption": kept}
