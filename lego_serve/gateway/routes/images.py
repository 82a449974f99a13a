"""The Images API: generations and edits, each one job.

A request goes one way: parse the body, choose the workflow, bind its inputs once, decode media, run the job, answer.
"""

from contextlib import ExitStack

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from lego_serve.core.scheduling.admission import Applicant
from lego_serve.gateway.context import Context
from lego_serve.gateway.openapi import JOB_ERRORS, answer, errors, form_body, json_body
from lego_serve.gateway.requests.edits import find_template, prepare_edit, read_edit
from lego_serve.gateway.requests.generations import prepare_generation, read_generation
from lego_serve.gateway.requests.job_request import ImageJobRequest
from lego_serve.gateway.requests.schemas import EditRequest, GenerationRequest, ImageRequest
from lego_serve.gateway.requests.workflows import edit_workflow, generation_workflow
from lego_serve.gateway.responses import images_response
from lego_serve.gateway.run_job import record_outcome, run_job
from lego_serve.gateway.settings import Caller
from lego_serve.gateway.stream import stream

STREAM = "The images; with `stream: true`, events of previews and of the images."
ANSWERS = answer(200, STREAM, "text/event-stream") | errors(415, *JOB_ERRORS)


def create_router(context: Context) -> APIRouter:
    """Build the routes of the Images API."""
    router = APIRouter(prefix="/v1/images", tags=["images"])

    @router.post("/generations", openapi_extra=json_body(GenerationRequest), responses=ANSWERS)
    async def generate(request: Request) -> Response:
        """Make images from a prompt."""
        with ExitStack() as scope:
            record = scope.enter_context(record_outcome(context.metrics))
            caller = context.authenticate(request)
            body = await read_generation(request)
            workflow = generation_workflow(context, body)
            record.begin(workflow.name)
            context.admission.check(_applicant(caller, body))  # before any image is decoded
            job_request = await prepare_generation(context, caller, body, workflow)
            del body  # its images would stay in memory as long as the job runs
            return await _run_and_respond(context, request, job_request, scope)

    @router.post("/edits", openapi_extra=form_body(EditRequest, ("image", "mask"), ("prompt",)), responses=ANSWERS)
    async def edit(request: Request) -> Response:
        """Make images from an image and a prompt."""
        with ExitStack() as scope:
            record = scope.enter_context(record_outcome(context.metrics))
            caller = context.authenticate(request)
            form = await read_edit(request)
            template = await find_template(context, caller, form.body)
            workflow = edit_workflow(context, form.body, form.input_name, template)
            record.begin(workflow.name)
            context.admission.check(_applicant(caller, form.body))  # before any image is decoded
            job_request = await prepare_edit(context, caller, form, workflow=workflow, template=template)
            del form
            return await _run_and_respond(context, request, job_request, scope)

    return router


def _applicant(caller: Caller, body: ImageRequest) -> Applicant:
    return Applicant(caller.tenant, caller.weight, body.n or 1)


async def _run_and_respond(
    context: Context, request: Request, job_request: ImageJobRequest, scope: ExitStack
) -> Response:
    """Run a prepared request as a job; ``scope`` ends with the request, or with its stream."""
    job_id = scope.enter_context(context.job_ids.reserve(request.state.request_id))
    job = job_request.to_job(job_id, context.runner.now())
    if job_request.body.stream:
        return await stream(context, request, job_request, job=job, scope=scope.pop_all())
    result = await run_job(context, request, job_request, job)
    return JSONResponse(await images_response(context.images, job_request.body, job, result))
