"""A form that asks for an edit, read into what a workflow takes: a whole picture, or a picture where a mask says."""

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Request
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from lego_serve.core.edits import EditAsk
from lego_serve.core.job import JobResult, Picture
from lego_serve.core.reuse import Quality
from lego_serve.core.workflow import Workflow
from lego_serve.errors import RequestError, UnsupportedParameter
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import shown_name, validation_error
from lego_serve.gateway.masks import decode_mask, weights_of
from lego_serve.gateway.pictures import decode_upload, fit_size, to_array
from lego_serve.gateway.running import Order, bind_request
from lego_serve.gateway.schemas import EditRequest
from lego_serve.gateway.settings import Caller

SUFFIXES = {"image": "-img2img", "edit": "-edit"}  # of the built-in workflow that takes such an input
MAX_FILES, MAX_FIELDS, MAX_TEXT_BYTES = 16, 64, 64 * 1024
FORM_COMPLAINTS = {  # by how the form's parser begins its own
    "Too many files": f"The form has more than {MAX_FILES} files.",
    "Too many fields": f"The form has more than {MAX_FIELDS} fields.",
    "Part exceeded": f"A text field of the form is longer than {MAX_TEXT_BYTES} bytes.",
}


@dataclass(frozen=True, slots=True)
class EditForm:
    """The fields and files of an edit."""

    body: EditRequest
    image: bytes
    mask: bytes | None


async def read_edit(request: Request) -> EditForm:
    """The form of a request.  Raises RequestError."""
    form = await _form(request)
    try:
        body, files = _fields(form)
        body.refuse_unsupported()
        mask = files.get("mask")
        body.refuse_without_mask(mask is not None)
        return EditForm(body, await files["image"].read(), None if mask is None else await mask.read())
    finally:
        await form.close()


async def edit_order(context: Context, form: EditForm, workflow: Workflow, caller: Caller) -> Order:
    """What a form asks of a workflow.  Raises RequestError."""
    body, most = form.body, context.settings.max_image_pixels
    taken = "image" if form.mask is None else "edit"
    workflow = _taking(context, workflow, taken)
    workflow = _adapted(context, workflow, body)
    picture = await asyncio.to_thread(decode_upload, form.image, most)
    size = body.dimensions(context.settings.size_multiple) or _own_size(context, workflow, picture)
    sized = {"width": size[0], "height": size[1]}
    bind_request(workflow, body.inputs() | sized | {taken: b""})  # bounds first, then the work of resizing
    if form.mask is None:
        pixels = await asyncio.to_thread(to_array, picture, *size)
        return Order(workflow, body, sized | {"image": {"pixels": pixels}}, caller)
    mask = await asyncio.to_thread(decode_mask, form.mask, picture.size, most)
    pixels, weight = await asyncio.to_thread(_prepared, picture, mask, size, body)
    ask = context.drift.planned(workflow, EditAsk(pixels, weight, Quality(body.reuse)))
    nothing = None if weight.any() else _unchanged(pixels, body)
    return Order(workflow, body, sized | {"edit": ask}, caller, nothing)


def _prepared(
    picture: Image.Image, mask: np.ndarray, size: tuple[int, int], body: EditRequest
) -> tuple[np.ndarray, np.ndarray]:
    return to_array(picture, *size), weights_of(mask, size, body.mask_dilation, body.mask_feather)


def _unchanged(pixels: np.ndarray, body: EditRequest) -> JobResult:
    """What comes of a mask that changes nothing: the picture as it is, without a model's help."""
    height, width, _ = pixels.shape
    seed = body.seed or 0
    return JobResult(tuple(Picture(width, height, pixels.tobytes(), seed + i) for i in range(body.n or 1)), 0.0)


def _taking(context: Context, workflow: Workflow, taken: str) -> Workflow:
    """The workflow for such an input: the one named, or else the one of that name with the input's suffix."""
    if taken in workflow.inputs:
        return workflow
    sibling = context.runner.workflows.get(workflow.name + SUFFIXES[taken])
    if sibling is None or taken not in sibling.inputs:
        param = "image" if taken == "image" else "mask"
        what = "edit images" if taken == "image" else "edit parts of images"
        raise UnsupportedParameter(f"This model does not {what}.", param=param)
    return sibling


def _adapted(context: Context, workflow: Workflow, body: EditRequest) -> Workflow:
    """The workflow for what an edit adds: the one that takes its picture, or else the one of that name with `-lora`."""
    if not body.lora or "lora" in workflow.inputs:
        return workflow
    sibling = context.runner.workflows.get(f"{workflow.name}-lora")
    if sibling is None or not {"lora", *workflow.inputs} <= set(sibling.inputs):
        raise UnsupportedParameter("This model takes no `lora`.", param="lora")
    return sibling


def _own_size(context: Context, workflow: Workflow, picture: Image.Image) -> tuple[int, int]:
    bounds = workflow.inputs["width"]
    return fit_size(picture, context.settings.size_multiple, int(bounds.min or 16), int(bounds.max or 4096))


async def _form(request: Request) -> FormData:
    """The form of a request.  Raises RequestError that names the limit it goes over."""
    try:
        return await request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_TEXT_BYTES)
    except HTTPException as error:  # whose words are the parser's, and the only sign of what is wrong
        said = str(error.detail)
    for sign, message in FORM_COMPLAINTS.items():
        if said.startswith(sign):
            raise RequestError(message, code="form_too_large")
    raise RequestError("The form cannot be read.", code="bad_request")


def _fields(form: FormData) -> tuple[EditRequest, dict[str, UploadFile]]:
    """The fields, and the files: one image, and a mask or none.  Raises RequestError."""
    fields: dict[str, Any] = {}
    files: dict[str, list[UploadFile]] = {"image": [], "mask": []}
    for name, value in form.multi_items():
        kind = "image" if name == "image[]" else name
        if kind in files:
            if not isinstance(value, UploadFile):
                raise RequestError(f"`{kind}` must be a file.", param=kind, code="invalid_type")
            files[kind].append(value)
        elif isinstance(value, UploadFile):
            raise UnsupportedParameter("The form has a file this server does not know.", param=shown_name(name))
        elif name in fields:
            raise RequestError("A field is given twice.", param=shown_name(name), code="duplicate_field")
        else:
            fields[name] = value
    if len(files["image"]) != 1:
        code = None if files["image"] else "missing"
        raise RequestError("Exactly one `image` is needed.", param="image", code=code)
    if len(files["mask"]) > 1:
        raise RequestError("At most one `mask` can be given.", param="mask", code="duplicate_field")
    try:
        return EditRequest.model_validate(fields), {kind: given[0] for kind, given in files.items() if given}
    except ValidationError as error:
        raise validation_error(error) from None
