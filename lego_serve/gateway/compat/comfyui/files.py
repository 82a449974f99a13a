"""Handlers of ComfyUI's routes of files: images that come in, and what prompts have saved."""

import asyncio

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile

from lego_serve.compat.comfyui.paths import job_of, upload_answer
from lego_serve.core.durable_jobs.record import JobStatus
from lego_serve.core.scheduling.admission import Applicant
from lego_serve.errors import LegoError, NotFound, RequestError
from lego_serve.gateway.compat.callers import foreign_caller
from lego_serve.gateway.compat.comfyui.prompts import Prompts
from lego_serve.gateway.compat.comfyui.uploads import Uploads
from lego_serve.gateway.compat.media import checked_image, masked, media_type
from lego_serve.gateway.context import Context
from lego_serve.gateway.requests.multipart import FormLimits, form_data
from lego_serve.gateway.settings import Caller

LIMITS = FormLimits(files=1, fields=8, text_bytes=16 * 1024)
CACHED = {"cache-control": "private, max-age=3600", "content-disposition": "inline"}


class NoStore(LegoError):
    """The server is configured without a store of jobs."""

    status = 503
    code = "no_job_store"


def no_jobs() -> NoStore:
    """Return the error of a server without a store."""
    return NoStore("This server keeps no jobs, which prompts and uploads need; see `jobs.store`.")


class FileHandlers:
    """Answers requests about files."""

    def __init__(self, context: Context, prompts: Prompts | None, uploads: Uploads | None) -> None:
        self._context, self._prompts, self._uploads = context, prompts, uploads

    async def upload_image(self, request: Request) -> JSONResponse:
        """Keep an image."""
        caller = foreign_caller(self._context, request)
        async with form_data(request, LIMITS) as form:
            name, content = await _image(form)
            async with self._context.images.turn(caller.tenant, caller.weight) as thread:
                content = await thread.read(checked_image, content, self._context.settings.max_image_pixels)
            return await self._keep(caller, form, name, content)

    async def upload_mask(self, request: Request) -> JSONResponse:
        """Keep an image that is there already, with the transparency of the one that is sent."""
        caller = foreign_caller(self._context, request)
        async with form_data(request, LIMITS) as form:
            name, mask = await _image(form)
            original = await self._original(caller, form)
            with self._context.admission.accepting(Applicant(caller.tenant, caller.weight)):
                async with self._context.images.turn(caller.tenant, caller.weight) as thread:
                    content = await thread.read(masked, original, mask, self._context.settings.max_image_pixels)
            return await self._keep(caller, form, name, content)

    async def view(self, request: Request) -> Response:
        """One file: an image that a prompt saved, or an upload."""
        caller = foreign_caller(self._context, request)
        query = request.query_params
        name, folder = query.get("filename", ""), query.get("subfolder", "")
        if not name:
            raise RequestError("`filename` is required.", param="filename", code="missing")
        content = await self._file(caller, name, folder, is_upload=query.get("type") == "input")
        return Response(content, media_type=media_type(content), headers=CACHED)

    async def _file(self, caller: Caller, name: str, folder: str, *, is_upload: bool) -> bytes:
        made = None if is_upload else job_of(name)
        if made is None:
            return await asyncio.to_thread(self._kept().read, caller.tenant, f"{folder}/{name}" if folder else name)
        if self._prompts is None:
            raise no_jobs()
        prompt = await self._prompts.find(caller.tenant, made[0])
        if prompt is None or prompt.record.status is not JobStatus.COMPLETED:
            raise NotFound("There is no such file.", param="filename")
        return await self._prompts.jobs.image(prompt.record, made[1])

    async def _keep(self, caller: Caller, form: FormData, name: str, content: bytes) -> JSONResponse:
        folder, is_overwritten = _text(form, "subfolder"), _text(form, "overwrite").lower() in ("true", "1")
        add = self._kept().add
        kept = await asyncio.to_thread(add, caller.tenant, name, folder, content, is_overwritten=is_overwritten)
        return JSONResponse(upload_answer(*kept))

    async def _original(self, caller: Caller, form: FormData) -> bytes:
        """Return the image that a mask is for.  Raises RequestError, NotFound."""
        try:
            reference = from_json(_text(form, "original_ref"))
            name, folder = reference["filename"], reference.get("subfolder") or ""
            kind = reference.get("type") or "output"
            if not isinstance(name, str) or not isinstance(folder, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError):
            message = "`original_ref` must be a JSON object with the `filename` of an image."
            raise RequestError(message, param="original_ref") from None
        return await self._file(caller, name, folder, is_upload=kind == "input")

    def _kept(self) -> Uploads:
        if self._uploads is None:
            raise no_jobs()
        return self._uploads


async def _image(form: FormData) -> tuple[str, bytes]:
    """Return the name and the bytes of a form's image.  Raises RequestError."""
    file = form.get("image")
    if not isinstance(file, UploadFile) or not file.filename:
        raise RequestError("A file `image` is required.", param="image", code="missing")
    return file.filename, await file.read()


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""
