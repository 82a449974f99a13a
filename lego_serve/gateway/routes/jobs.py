"""Routes of durable jobs: submit, list, read, watch, fetch, cancel, delete."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from lego_serve.core.durable_jobs.record import JobStatus
from lego_serve.core.durable_jobs.store import MAX_PAGE, JobQuery
from lego_serve.errors import NotFound
from lego_serve.gateway.context import Context
from lego_serve.gateway.jobs.answers import (
    answer_job,
    answer_result,
    answer_submitted,
    describe,
    event_stream,
    jobs_of,
)
from lego_serve.gateway.jobs.job_object import JOBS, MEDIA_TYPES, image_path
from lego_serve.gateway.jobs.preferences import read_preferences
from lego_serve.gateway.jobs.service import images_of
from lego_serve.gateway.links.image_file import ImageContent, ImageFile
from lego_serve.gateway.links.requested import links_start
from lego_serve.gateway.openapi import JOB_ERRORS, answer, errors, json_body
from lego_serve.gateway.requests.job_submissions import JobSubmissionBody, read_submission
from lego_serve.gateway.requests.json_body import held_body
from lego_serve.gateway.routes.direct_route import DirectRoute
from lego_serve.gateway.stream import HEADERS
from lego_serve.gateway.telemetry.trace_context import traceparent

ACCEPTED = answer(202, "The job, which waits or runs.")


def create_router(context: Context) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix=JOBS, tags=["jobs"], route_class=DirectRoute)
    handlers = JobRoutes(context)
    none = errors(404)
    router.add_api_route(
        "",
        handlers.submit,
        methods=["POST"],
        openapi_extra=json_body(JobSubmissionBody),
        responses=ACCEPTED | errors(404, 409, 422),
        status_code=202,
    )
    router.add_api_route("", handlers.list_jobs, methods=["GET"])
    router.add_api_route("/{job_id}", handlers.show, methods=["GET"], responses=none)
    router.add_api_route("/{job_id}", handlers.delete, methods=["DELETE"], responses=none)
    router.add_api_route("/{job_id}/cancel", handlers.cancel, methods=["POST"], responses=none)
    events = answer(200, "Events, each with the whole job.", "text/event-stream") | none
    router.add_api_route("/{job_id}/events", handlers.events, methods=["GET"], responses=events)
    result = ACCEPTED | errors(*JOB_ERRORS)
    router.add_api_route("/{job_id}/result", handlers.result, methods=["GET"], responses=result)
    image = answer(200, "The file of an image.", "image/png") | answer(206, "A part of it.", "image/png") | none
    image |= {304: {"description": "It is the one that the client has."}, 416: {"description": "No such part."}}
    router.add_api_route(
        "/{job_id}/images/{index}", handlers.image, methods=["GET"], responses=image, response_class=Response
    )
    return router


class JobRoutes:
    """Answers requests about durable jobs; a method's docstring is its description in the API's schema."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def submit(self, request: Request) -> Response:
        """Accept a job: its images are made whatever becomes of this connection or this process."""
        caller, preferences = self._context.authenticate(request), read_preferences(request)
        jobs = jobs_of(self._context)
        if preferences.key is None:  # a repeated request uses nothing
            await self._context.limits.check(request, caller.tenant)
        async with held_body(request, JobSubmissionBody) as body:
            submission = read_submission(body, preferences.key, traceparent(request.headers))
            links_start(self._context, request, submission.body.response_format)  # refused now, not with the result
            submitted = await jobs.submit(caller, submission, request)
        return await answer_submitted(self._context, request, submitted, preferences)

    async def list_jobs(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
        after: Annotated[str | None, Query(max_length=64)] = None,
        order: Literal["asc", "desc"] = "desc",
        status: JobStatus | None = None,
        model: Annotated[str | None, Query(max_length=256)] = None,
    ) -> JSONResponse:
        """The caller's jobs by the time of their acceptance; `after` is an id, which need not exist any more."""
        caller = self._context.authenticate(request)
        query = JobQuery(caller.tenant, limit, after, order == "asc", status, model)
        page = await jobs_of(self._context).page(query)
        data = [await describe(self._context, request, record) for record in page.jobs]
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return JSONResponse({"object": "list", "data": data, "has_more": page.has_more} | ends)

    async def show(self, request: Request, job_id: str) -> Response:
        """One job as it stands."""
        caller = self._context.authenticate(request)
        return await answer_job(self._context, request, await jobs_of(self._context).get(caller, job_id))

    async def delete(self, request: Request, job_id: str) -> Response:
        """End a job if it has not ended, and forget it with its images."""
        caller = self._context.authenticate(request)
        await jobs_of(self._context).delete(caller, job_id)
        return JSONResponse({"id": job_id, "object": "job", "deleted": True})

    async def cancel(self, request: Request, job_id: str) -> Response:
        """End a job; one that has ended stays as it is."""
        caller = self._context.authenticate(request)
        return await answer_job(self._context, request, await jobs_of(self._context).cancel(caller, job_id))

    async def events(self, request: Request, job_id: str) -> Response:
        """How a job stands now, each change, previews, and its end: every event holds the whole job."""
        caller = self._context.authenticate(request)
        record = await jobs_of(self._context).get(caller, job_id)
        await jobs_of(self._context).signer()  # which a stream that has begun could not say that it lacks
        stream = event_stream(self._context, request, record)
        return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)

    async def result(self, request: Request, job_id: str) -> Response:
        """What the synchronous request would have been answered; the job while it waits or runs."""
        caller = self._context.authenticate(request)
        record = await jobs_of(self._context).get(caller, job_id)
        return await answer_result(self._context, request, record, {})

    async def image(
        self,
        request: Request,
        job_id: str,
        index: int,
        expires: Annotated[str | None, Query(max_length=20)] = None,
        signature: Annotated[str | None, Query(max_length=64)] = None,
    ) -> Response:
        """An image of a completed job, by the caller's key or by a link that its answer holds."""
        jobs = jobs_of(self._context)
        if signature is None and expires is None:
            record = await jobs.get(self._context.authenticate(request), job_id)
        else:
            record = await jobs.open_link(image_path(job_id, index), job_id, expires, signature)
        cards = images_of(record)
        if not 0 <= index < len(cards):
            raise NotFound("This job has no such image.", param="index", code="image_not_found")
        assert record.result is not None, "a job with images has a result"
        tag = f'"{cards[index]["sha256"]}"'
        headers = {"etag": tag, "cache-control": "private, max-age=3600, immutable"}
        if (known := request.headers.get("if-none-match", "")).strip() == "*" or tag in known:
            return Response(status_code=304, headers=headers)
        found = await jobs.find_image(record, index)
        media_type = MEDIA_TYPES[str(record.result["output_format"])]
        if isinstance(found, bytes):
            return ImageContent(found, headers=headers, media_type=media_type)
        return ImageFile(found, headers=headers, media_type=media_type)
