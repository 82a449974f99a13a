"""The Images API: generations and edits, each one job.

A request goes one way: parse the body, choose the workflow, reserve a place, bind its inputs once, decode media, run
the job, answer.  The body's bytes count until its media are decoded, and the place is held until the job ends.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from lego_serve.core.jobs.job import Job
from lego_serve.core.scheduling.admission import Applicant
from lego_serve.gateway.admission import Place
from lego_serve.gateway.context import Context
from lego_serve.gateway.jobs.answers import answer_durably
from lego_serve.gateway.jobs.preferences import Preferences, read_preferences
from lego_serve.gateway.jobs.submission import EDITS, GENERATIONS, JobOptions, Submission
from lego_serve.gateway.links.requested import requested_links
from lego_serve.gateway.openapi import JOB_ERRORS, answer, errors, form_body, json_body
from lego_serve.gateway.requests.edits import find_template, prepare_edit, read_edit
from lego_serve.gateway.requests.generations import prepare_generation, read_generation
from lego_serve.gateway.requests.job_request import ImageJobRequest
from lego_serve.gateway.requests.schemas import EditRequest, GenerationRequest
from lego_serve.gateway.requests.workflows import applicant_for, edit_workflow, generation_workflow
from lego_serve.gateway.responses import images_response
from lego_serve.gateway.routes.direct_route import DirectRoute
from lego_serve.gateway.run_job import RequestRecord, record_outcome, run_job
from lego_serve.gateway.stream import stream
from lego_serve.gateway.telemetry.trace_context import traceparent

STREAM = "The images; with `stream: true`, events of previews and of the images."
ACCEPTED = answer(202, "The job, with `Prefer: respond-async`; it waits or runs.")
ANSWERS = answer(200, STREAM, "text/event-stream") | ACCEPTED | errors(*JOB_ERRORS)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request ready to become a job, its place among the pending ones, and what links in its answer begin with."""

    job_request: ImageJobRequest
    place: Place
    links: str | None


def create_router(context: Context) -> APIRouter:
    """Build the routes of the Images API."""
    router = APIRouter(prefix="/v1/images", tags=["images"], route_class=DirectRoute)

    @router.post("/generations", openapi_extra=json_body(GenerationRequest), responses=ANSWERS)
    async def generate(request: Request) -> Response:
        """Make images from a prompt."""
        with ExitStack() as scope:
            record = scope.enter_context(record_outcome(context.metrics, request))
            if (preferences := read_preferences(request)).is_durable:
                return await _generate_durably(context, request, preferences, record)
            admitted = await _admit_generation(context, request, record, scope)
            return await _run_and_respond(context, request, admitted, scope)

    @router.post("/edits", openapi_extra=form_body(EditRequest, ("image", "mask"), ("prompt",)), responses=ANSWERS)
    async def edit(request: Request) -> Response:
        """Make images from an image and a prompt."""
        with ExitStack() as scope:
            record = scope.enter_context(record_outcome(context.metrics, request))
            if (preferences := read_preferences(request)).is_durable:
                return await _edit_durably(context, request, preferences, record)
            admitted = await _admit_edit(context, request, record, scope)
            return await _run_and_respond(context, request, admitted, scope)

    return router


async def _generate_durably(
    context: Context, request: Request, preferences: Preferences, record: RequestRecord
) -> Response:
    """Make a durable job of a generation: its client wants an answer at once, or may ask for it again."""
    caller = context.authenticate(request)
    if preferences.key is None:  # a repeated request uses nothing
        await context.limits.check(request, caller.tenant)
    async with read_generation(request) as body:
        requested_links(context, request, body)
        submission = Submission(GENERATIONS, body, options=_options(request), key=preferences.key)
        record.is_durable = True
        return await answer_durably(context, request, caller, submission, preferences)


async def _edit_durably(
    context: Context, request: Request, preferences: Preferences, record: RequestRecord
) -> Response:
    """Make a durable job of an edit."""
    caller = context.authenticate(request)
    if preferences.key is None:
        await context.limits.check(request, caller.tenant)
    async with read_edit(request) as form:
        requested_links(context, request, form.body)
        files = {name: each for name, each in (("image", form.image), ("mask", form.mask)) if each is not None}
        submission = Submission(EDITS, form.body, files, _options(request), preferences.key)
        record.is_durable = True
        return await answer_durably(context, request, caller, submission, preferences)


def _options(request: Request) -> JobOptions:
    return JobOptions(traceparent=traceparent(request.headers))


async def _admit_generation(context: Context, request: Request, record: RequestRecord, scope: ExitStack) -> Admitted:
    caller = context.authenticate(request)
    await context.limits.check(request, caller.tenant)
    async with read_generation(request) as body:
        links = requested_links(context, request, body)
        workflow = generation_workflow(context, body)
        record.begin(workflow.name)
        place = await _place(context, scope, applicant_for(caller, workflow, body))
        job_request = await prepare_generation(context, caller, body, workflow)
    return Admitted(job_request, place, links)


async def _admit_edit(context: Context, request: Request, record: RequestRecord, scope: ExitStack) -> Admitted:
    caller = context.authenticate(request)
    await context.limits.check(request, caller.tenant)
    async with read_edit(request) as form:
        links = requested_links(context, request, form.body)
        template = await find_template(context, caller, form.body)
        workflow = edit_workflow(context, form.body, form.input_name, template)
        record.begin(workflow.name)
        place = await _place(context, scope, applicant_for(caller, workflow, form.body))
        job_request = await prepare_edit(context, caller, form, workflow=workflow, template=template)
    return Admitted(job_request, place, links)


async def _place(context: Context, scope: ExitStack, applicant: Applicant) -> Place:
    """Return the place of a request, held until ``scope`` ends.  Raises CapacityError."""
    await context.limits.hold(applicant.tenant, scope)
    return scope.enter_context(context.admission.reserve(applicant))


async def _run_and_respond(context: Context, request: Request, admitted: Admitted, scope: ExitStack) -> Response:
    """Run an admitted request as a job; ``scope`` ends with the request, or with its stream."""
    job_request, place = admitted.job_request, admitted.place
    job_id = scope.enter_context(context.job_ids.reserve(request.state.request_id))
    context.log_job(job_id, job_request.body.prompt)
    job = job_request.to_job(job_id, context.runner.now())
    job_request, job = await _in_time(context, job_request, job, scope)  # what is refused is not charged
    await context.limits.charge(job_request.caller.tenant, job_request.work(context.settings.tiers), request)
    if job_request.body.stream:
        return await stream(context, request, job_request, job=job, place=place, scope=scope.pop_all())
    result = await run_job(context, request, job_request, job, place=place)
    keep = None
    if admitted.links is not None and context.kept_images is not None:
        keep = partial(context.kept_images.keep, admitted.links)
    return JSONResponse(await images_response(context.images, job_request.body, job, result, keep))


async def _in_time(
    context: Context, job_request: ImageJobRequest, job: Job, scope: ExitStack
) -> tuple[ImageJobRequest, Job]:
    """Return a request and its job as they run: in a lower tier where they allow it and would be late in their own.

    Raises CapacityError.
    """
    lowered = None if job.deadline_s is None else job_request.lowered(context.settings.tiers)
    lower = None if lowered is None else replace(job, inputs=lowered.inputs, tier=lowered.tier)
    chosen = await context.admission.check_deadline(job, scope, lower)
    return (job_request if lowered is None or chosen is job else lowered), chosen
