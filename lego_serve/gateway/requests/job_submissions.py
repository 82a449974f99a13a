"""The body of `POST /v1/jobs`: a request of the Images API by its endpoint, or a workflow by name with its inputs."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lego_serve.core.durable_jobs.record import PRIORITIES, Webhook
from lego_serve.errors import RequestError
from lego_serve.gateway.jobs.submission import EDITS, GENERATIONS, ImageBody, JobOptions, Submission
from lego_serve.gateway.media.base64_text import decode_base64
from lego_serve.gateway.requests.complaints import validation_error
from lego_serve.gateway.requests.schemas import REQUEST_NAMES, EditRequest, GenerationRequest

FILES = ("image", "mask")
MAX_PAIRS = 16
EVENTS = ("job.completed", "job.failed", "job.cancelled", "job.expired")


class WebhookBody(BaseModel):
    """Where the end of a job is told, and which ends; all without ``events``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    url: Annotated[str, Field(min_length=1, max_length=2048)]
    events: tuple[Literal["job.completed", "job.failed", "job.cancelled", "job.expired"], ...] = ()


class JobSubmissionBody(BaseModel):
    """A job: `endpoint` and `body`, or `workflow` and `inputs`, and what is said of the job itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    endpoint: Literal["/v1/images/generations", "/v1/images/edits"] | None = None
    body: dict[str, Any] | None = None
    workflow: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    inputs: dict[str, Any] | None = None
    priority: Annotated[int, Field(ge=PRIORITIES[0], le=PRIORITIES[-1])] = 0
    deadline_ms: Annotated[int, Field(ge=1, le=30 * 86_400_000)] | None = None
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=MAX_PAIRS)
    ] = Field(default_factory=dict)
    webhook: WebhookBody | None = None

    @property
    def options(self) -> JobOptions:
        """What is said of the job."""
        hook = None if self.webhook is None else Webhook(self.webhook.url, self.webhook.events)
        return JobOptions(self.priority, self.deadline_ms, self.metadata, hook)


def read_submission(given: JobSubmissionBody, key: str | None, traceparent: str | None) -> Submission:
    """Return the submission that a body describes.  Raises RequestError."""
    options = given.options
    options = JobOptions(options.priority, options.deadline_ms, options.metadata, options.webhook, traceparent)
    endpoint, values = _request(given)
    values = {name: value for name, value in values.items() if value is not None}  # as if it were not given
    files = {name: _file(name, values.pop(name)) for name in FILES if endpoint == EDITS and name in values}
    return Submission(endpoint, checked_body(endpoint, values, files), files, options, key)


def checked_body(endpoint: str, values: Mapping[str, Any], files: Mapping[str, bytes]) -> ImageBody:
    """Return the body of a request of the Images API, checked as its route does.  Raises RequestError."""
    fields = dict(values)
    model: type[GenerationRequest] | type[EditRequest] = GenerationRequest
    if endpoint == EDITS:
        model = EditRequest
        as_in_a_form = (name for name, value in fields.items() if isinstance(value, (list, dict)))
        fields |= {name: json.dumps(fields[name]) for name in as_in_a_form}
    try:
        body = model.model_validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        raise validation_error(error) from None
    # Previews and steps go to whoever watches the job's events; that there is no stream is no mistake.
    body.model_copy(update={"stream": True}).refuse_unsupported()
    if isinstance(body, EditRequest):
        _check_files(body, files)
    return body.model_copy(update={"stream": None})


def _check_files(body: EditRequest, files: Mapping[str, bytes]) -> None:
    if "image" in files and body.template is not None:
        raise RequestError("An edit has an `image` or a `template`, not both.", param="template")
    if "image" not in files and body.template is None:
        raise RequestError("Exactly one `image`, or a `template`, is needed.", param="image", code="missing")
    body.refuse_without_mask("mask" in files)


def _request(given: JobSubmissionBody) -> tuple[str, dict[str, Any]]:
    """Return the endpoint and the fields of its body.  Raises RequestError unless it is given in one way."""
    by_endpoint, by_workflow = (given.endpoint, given.body), (given.workflow, given.inputs)
    if None not in by_endpoint and by_workflow == (None, None):
        return str(given.endpoint), dict(given.body or {})
    if None in by_workflow or by_endpoint != (None, None):
        what = "A job has `endpoint` and `body`, or `workflow` and `inputs`."
        raise RequestError(what, param="endpoint", code="missing")
    return _as_endpoint(str(given.workflow), given.inputs or {})


def _as_endpoint(workflow: str, inputs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the request of the Images API that gives these inputs of a workflow."""
    values = {REQUEST_NAMES.get(name, name): value for name, value in inputs.items() if name not in ("width", "height")}
    size = [inputs.get(name) for name in ("width", "height")]
    if size != [None, None]:
        if not all(isinstance(side, int) and not isinstance(side, bool) for side in size):
            raise RequestError("`width` and `height` must both be given, as integers.", param="inputs")
        values["size"] = f"{size[0]}x{size[1]}"
    endpoint = EDITS if any(inputs.get(name) is not None for name in (*FILES, "template")) else GENERATIONS
    return endpoint, values | {"model": workflow}


def _file(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise RequestError(f"`{name}` must be an image file as base64.", param=name, code="invalid_type")
    try:
        return decode_base64(value)
    except ValueError:
        raise RequestError(f"`{name}` must be an image file as base64.", param=name, code="invalid_base64") from None
