"""A request for images that becomes a durable job: taken apart to be stored, put together again to be run.

What is stored is what the caller sent, so that whoever runs the job reads it as any request: bodies are checked anew,
and images decoded.  The seed alone is drawn when the job is accepted.
"""

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from lego_serve.core.durable_jobs.idempotency import fingerprint
from lego_serve.core.durable_jobs.inputs import StoredInputs, passing_inputs, put_together, take_apart
from lego_serve.core.durable_jobs.record import JobRecord, JobRequest, JobStatus, Webhook
from lego_serve.core.durable_jobs.store import JobSize
from lego_serve.core.workflow.graph import Workflow
from lego_serve.gateway.context import Context
from lego_serve.gateway.requests.edits import EditForm, find_template, prepare_edit
from lego_serve.gateway.requests.generations import prepare_generation
from lego_serve.gateway.requests.job_request import ImageJobRequest
from lego_serve.gateway.requests.schemas import RANDOM_SEED, EditRequest, GenerationRequest
from lego_serve.gateway.requests.workflows import edit_workflow, generation_workflow
from lego_serve.gateway.settings import Caller

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
ImageBody: TypeAlias = GenerationRequest | EditRequest


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What a caller says of a job besides the images wanted; ``deadline_ms`` counts from its acceptance."""

    priority: int = 0
    deadline_ms: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    webhook: Webhook | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A request for images that is to become a durable job.

    ``files`` are those of an edit, `image` and `mask`, and what a foreign protocol keeps beside them.  ``check`` may
    refuse it once it is prepared, before it is charged and stored.
    """

    endpoint: str
    body: ImageBody
    files: Mapping[str, bytes] = field(default_factory=dict)
    options: JobOptions = JobOptions()
    key: str | None = None
    check: Callable[[ImageJobRequest], Awaitable[None]] | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The fields that were given, as JSON has them."""
        text = self.body.model_dump_json(exclude_unset=True, round_trip=True)
        values: dict[str, Any] = json.loads(text)
        return values

    @property
    def has_images(self) -> bool:
        """Whether images are decoded to tell whether it is right."""
        return isinstance(self.body, EditRequest) or bool(self.body.controlnet)

    @property
    def mark(self) -> str:
        """A hash of all that it asks for, which a repeat under the same key has as well."""
        options = self.options
        webhook = None if options.webhook is None else [options.webhook.url, list(options.webhook.events)]
        extra = [options.priority, options.deadline_ms, dict(options.metadata), webhook]
        return fingerprint(self.endpoint, {"body": self.values, "options": extra}, self.files)

    def with_seed(self) -> "Submission":
        """Return the submission with a seed: its own, or one drawn now, so that every attempt makes the same image."""
        if self.body.seed not in (None, RANDOM_SEED):
            return self
        body = self.body.model_copy(update={"seed": secrets.randbelow(2**32)})
        return replace(self, body=body)

    def store(self) -> StoredInputs:
        """Return what is stored: the fields, and apart from them the files and the images of ControlNets."""
        values = self.values
        for use in values.get("controlnet") or ():
            use["image"] = use["image"].encode()
        return take_apart({"body": values, "files": dict(self.files)})


def size_of(stored: StoredInputs) -> JobSize:
    """Return the bytes of what is stored apart from a record."""
    passing = passing_inputs(stored.values)
    sizes = {digest: len(content) for digest, content in stored.contents.items()}
    going = sum(size for digest, size in sizes.items() if digest in passing)
    return JobSize(going, sum(sizes.values()) - going)


def restore(request: JobRequest, read: Callable[[str], bytes]) -> Submission:
    """Return the submission of a stored request; ``read`` answers the content of a sha256.

    Raises ValueError for content that is damaged, NotFound for content that is gone.
    """
    inputs = put_together(request.inputs, read)
    values, files = dict(_mapping(inputs["body"])), _mapping(inputs["files"])
    if values.get("controlnet"):
        values["controlnet"] = [use | {"image": use["image"].decode()} for use in values["controlnet"]]
    model = EditRequest if request.endpoint == EDITS else GenerationRequest
    body = model.model_validate_json(json.dumps(values))
    return Submission(request.endpoint, body, {name: bytes(each) for name, each in files.items()})


def shows_previews(record: JobRecord) -> bool:
    """Whether somebody may see previews of a job: it runs, and they were asked for."""
    body = record.request.inputs.get("body")
    return record.status is JobStatus.IN_PROGRESS and isinstance(body, Mapping) and bool(body.get("partial_images"))


def _mapping(value: object) -> Mapping[str, Any]:
    assert isinstance(value, Mapping), "inputs are stored as mappings"
    return value


async def choose_workflow(context: Context, caller: Caller, submission: Submission) -> Workflow:
    """Return the workflow that a submission runs.  Raises RequestError."""
    body = submission.body
    if isinstance(body, GenerationRequest):
        return generation_workflow(context, body)
    form = _form(submission, body)
    return edit_workflow(context, body, form.input_name, await find_template(context, caller, body))


async def prepare(context: Context, caller: Caller, submission: Submission, workflow: Workflow) -> ImageJobRequest:
    """Bind a submission's inputs, decode its images, and check it.  Raises RequestError, and what its check raises."""
    body = submission.body
    if isinstance(body, GenerationRequest):
        prepared = await prepare_generation(context, caller, body, workflow)
    else:
        form = _form(submission, body)
        template = await find_template(context, caller, body)
        prepared = await prepare_edit(context, caller, form, workflow=workflow, template=template)
    if submission.check is not None:
        await submission.check(prepared)
    return prepared


def _form(submission: Submission, body: EditRequest) -> EditForm:
    return EditForm(body, image=submission.files.get("image"), mask=submission.files.get("mask"))
