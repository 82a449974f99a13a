"""Makes what a foreign request asks for into a body of the Images API, its workflow and its files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self, TypeVar

from pydantic import ValidationError

from lego_serve.compat.requests import OurRequest
from lego_serve.compat.task import MaskUse
from lego_serve.core.scheduling.admission import Applicant
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import RequestError, with_param
from lego_serve.gateway.compat.media import edit_mask, opaque
from lego_serve.gateway.context import Context
from lego_serve.gateway.media.workers import UploadThread
from lego_serve.gateway.requests.complaints import validation_error
from lego_serve.gateway.requests.edits import EditForm, prepare_edit
from lego_serve.gateway.requests.generations import prepare_generation
from lego_serve.gateway.requests.job_request import ImageJobRequest
from lego_serve.gateway.requests.schemas import EditRequest, GenerationRequest, ImageRequest
from lego_serve.gateway.requests.workflows import applicant_for, edit_workflow, generation_workflow
from lego_serve.gateway.settings import Caller

# The workflow's input behind each field that may be dispensable.
INPUTS = {"guidance_scale": "guidance", "sampler": "sampler", "n": "n"}
NO_PROMPT = " "  # foreign tools may ask for whatever a model makes of no text, which the Images API does not take
BodyT = TypeVar("BodyT", bound=ImageRequest)


@dataclass(frozen=True, slots=True)
class ForeignImages:
    """A request of the Images API made of a foreign one, with its workflow; an edit has files beside its body.

    They are as they came, and nothing of them is decoded, as long as ``mask_use`` says what is still to be made of
    the mask.
    """

    body: GenerationRequest | EditRequest
    workflow: Workflow
    image: bytes | None = None
    mask: bytes | None = None
    mask_use: MaskUse | None = None

    @property
    def files(self) -> dict[str, bytes]:
        """The files of an edit by the names of its form."""
        assert self.mask_use is None, "the mask has been made ours"
        return {name: file for name, file in (("image", self.image), ("mask", self.mask)) if file is not None}

    def applicant(self, caller: Caller) -> Applicant:
        """Return what it asks to be admitted as."""
        return applicant_for(caller, self.workflow, self.body)

    async def with_our_files(self, thread: UploadThread, max_pixels: int, *, is_opaque: bool = False) -> Self:
        """Return it with the mask made ours, and the image without its transparency where that says nothing.

        Raises RequestError.
        """
        image, mask = self.image, self.mask
        if is_opaque and image is not None:
            image = await thread.read(opaque, image, max_pixels)
        if self.mask_use is not None:
            assert image is not None, "an edit has an image"
            assert mask is not None, "an edit of a part has a mask"
            mask = await thread.read(edit_mask, self.mask_use, mask, image, max_pixels)
        return replace(self, image=image, mask=mask, mask_use=None)

    async def bind(self, context: Context, caller: Caller) -> ImageJobRequest:
        """Bind the workflow's inputs, and decode images; in its place, for that may take long.  Raises RequestError."""
        if isinstance(self.body, GenerationRequest):
            return await prepare_generation(context, caller, self.body, self.workflow)
        ours = self
        if self.mask_use is not None:
            async with context.images.turn(caller.tenant, caller.weight) as thread:
                ours = await self.with_our_files(thread, context.settings.max_image_pixels)
        form = EditForm(self.body, ours.image, ours.mask)
        return await prepare_edit(context, caller, form, workflow=self.workflow, template=None)


def make_request(
    context: Context, ours: OurRequest, image: bytes | None = None, mask: bytes | None = None
) -> ForeignImages:
    """Return our request; ``image`` and ``mask`` are the files of an edit, as they came: none is decoded.

    Raises RequestError, NotFound.
    """
    model = GenerationRequest if ours.route == "generations" else EditRequest
    try:
        body = model.model_validate(dict(ours.fields) | {"prompt": ours.fields["prompt"] or NO_PROMPT}, strict=False)
    except ValidationError as error:
        raise validation_error(error) from None
    is_blank = not body.prompt.strip()
    (body.model_copy(update={"prompt": "a"}) if is_blank else body).refuse_unsupported()
    if isinstance(body, GenerationRequest):
        workflow = generation_workflow(context, body)
        return ForeignImages(_without(body, ours, workflow), workflow)
    workflow = edit_workflow(context, body, "image" if mask is None else "edit", None)
    return ForeignImages(_without(body, ours, workflow), workflow, image, mask, ours.mask)


def _without(body: BodyT, ours: OurRequest, workflow: Workflow) -> BodyT:
    """Return the body without what is dispensable and no input of the workflow."""
    spare = [field for field in ours.dispensable if INPUTS[field] not in workflow.inputs]
    return body.model_copy(update=dict.fromkeys(spare))


def in_words(error: RequestError, words: Mapping[str, str]) -> RequestError:
    """Return an error about one of our fields as one about the caller's own, where that has another name."""
    field = (error.param or "").split("[", 1)[0].split(".", 1)[0]
    return with_param(error, words[field]) if field in words else error
