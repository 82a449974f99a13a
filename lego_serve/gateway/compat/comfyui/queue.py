"""Handlers of ComfyUI's routes of prompts: what is queued, what runs, and what became of it."""

import asyncio
import base64
from collections.abc import Mapping
from typing import TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from lego_serve.compat.comfyui import answers
from lego_serve.compat.comfyui.bodies import ClearBody, InterruptBody, read_prompt_body
from lego_serve.compat.comfyui.faults import PromptRefused
from lego_serve.compat.comfyui.translate import translate
from lego_serve.compat.requests import our_request
from lego_serve.compat.task import ImageTask, InputImage
from lego_serve.core.durable_jobs.store import MAX_PAGE
from lego_serve.core.whole_numbers import whole_number
from lego_serve.errors import JobEnded, NotFound, RequestError
from lego_serve.gateway.compat import catalogue
from lego_serve.gateway.compat.bodies import held_json, read_json
from lego_serve.gateway.compat.callers import foreign_caller
from lego_serve.gateway.compat.comfyui.files import no_jobs
from lego_serve.gateway.compat.comfyui.offers import lists_for, needs
from lego_serve.gateway.compat.comfyui.prompts import Graph, Prompt, Prompts
from lego_serve.gateway.compat.comfyui.uploads import Uploads
from lego_serve.gateway.compat.preparation import ForeignImages, make_request
from lego_serve.gateway.context import Context
from lego_serve.gateway.settings import Caller
from lego_serve.process.log_facts import log_facts

BodyT = TypeVar("BodyT", bound=BaseModel)


class PromptHandlers:
    """Answers requests about the caller's prompts."""

    def __init__(self, context: Context, prompts: Prompts | None, uploads: Uploads | None) -> None:
        self._context, self._maybe_prompts, self._uploads = context, prompts, uploads

    async def submit(self, request: Request) -> JSONResponse:
        """Queue a prompt."""
        caller = foreign_caller(self._context, request)
        await self._context.limits.check(request, caller.tenant)
        prompts = self._prompts
        try:
            async with held_json(request) as raw:
                body = read_prompt_body(raw)
                lists = await lists_for(self._context, self._uploads, caller.tenant, **needs(body.prompt))
                task = translate(body.prompt, lists)
                wanted = await self._wanted(caller, task)
                graph = Graph(body.prompt, task.outputs, task.sampling_node or "")
                prompt = await prompts.submit(request, caller, body, wanted, graph)
                log_facts().job_id = prompt.record.id
        except PromptRefused as refused:
            return JSONResponse(refused.body, 400)
        return JSONResponse(answers.accepted(prompt.id, prompt.queued.number))

    async def count(self, request: Request) -> JSONResponse:
        """How many prompts wait or run."""
        caller = foreign_caller(self._context, request)
        return JSONResponse(answers.remaining(await self._prompts.remaining(caller.tenant)))

    async def queue(self, request: Request) -> JSONResponse:
        """The prompts that run, and those that wait.

        One that ended a moment ago still runs here: clients that look into the history first, and find it in neither,
        take it for lost.
        """
        caller = foreign_caller(self._context, request)
        running, waiting = await self._prompts.open(caller.tenant)
        ids = {prompt.id for prompt in running}
        running += [prompt for prompt in await self._prompts.just_ended(caller.tenant) if prompt.id not in ids]
        return JSONResponse(answers.queue([each.queued for each in running], [each.queued for each in waiting]))

    async def clear_queue(self, request: Request) -> JSONResponse:
        """Take prompts that wait out of the queue."""
        caller = foreign_caller(self._context, request)
        body = _read(ClearBody, await read_json(request))
        _, waiting = await self._prompts.open(caller.tenant)
        for prompt in waiting:
            if body.clear or prompt.id in body.delete:
                await self._cancel(caller, prompt)
        return JSONResponse(None)

    async def history(self, request: Request) -> JSONResponse:
        """What became of prompts, or of one; nothing of one that has not ended."""
        caller = foreign_caller(self._context, request)
        prompt_id = request.path_params.get("prompt_id")
        if prompt_id is None:
            wanted = whole_number(request.query_params.get("max_items", ""))
            count = MAX_PAGE if wanted is None else max(1, min(wanted, MAX_PAGE))
            ended = await self._prompts.ended(caller.tenant, count)
            return JSONResponse(answers.history([prompt.ended for prompt in ended]))
        prompt = await self._prompts.find(caller.tenant, prompt_id)
        found = [prompt.ended] if prompt is not None and prompt.is_in_history else []
        return JSONResponse(answers.history(found))

    async def clear_history(self, request: Request) -> JSONResponse:
        """Forget prompts that ended, with their images."""
        caller = foreign_caller(self._context, request)
        body = _read(ClearBody, await read_json(request))
        for prompt in await self._prompts.ended(caller.tenant, MAX_PAGE):
            if body.clear or prompt.id in body.delete:
                await self._prompts.jobs.delete(caller, prompt.record.id)
        return JSONResponse(None)

    async def interrupt(self, request: Request) -> JSONResponse:
        """Stop the prompts that run, or one of them."""
        caller = foreign_caller(self._context, request)
        body = _read(InterruptBody, await _read_anything(request))
        running, _ = await self._prompts.open(caller.tenant)
        for prompt in running:
            if body.prompt_id in (None, prompt.id):
                await self._cancel(caller, prompt)
        return JSONResponse(None)

    async def cancel(self, request: Request) -> JSONResponse:
        """End one prompt, whether it runs or waits."""
        caller = foreign_caller(self._context, request)
        prompt = await self._prompts.find(caller.tenant, request.path_params["prompt_id"])
        if prompt is None:
            raise NotFound("There is no prompt of this id.", param="prompt_id")
        await self._cancel(caller, prompt)
        return JSONResponse({"cancelled": not prompt.record.status.has_ended})

    @property
    def _prompts(self) -> Prompts:
        if self._maybe_prompts is None:
            raise no_jobs()
        return self._maybe_prompts

    async def _wanted(self, caller: Caller, task: ImageTask) -> ForeignImages:
        """Return our request for what a prompt asks for.  Raises PromptRefused, RequestError, CapacityError."""
        files = await asyncio.to_thread(self._files, caller.tenant, task)
        controls = {net.image: base64.b64encode(files[net.image]).decode() for net in task.controlnets}
        names = await catalogue.names(self._context, with_adapters=bool(task.loras))
        ours = our_request(task, names, controls)
        if task.image is None:
            return make_request(self._context, ours)
        mask = None if task.mask is None else files[task.mask.image]
        wanted = make_request(self._context, ours, files[task.image], mask)
        with self._context.admission.accepting(wanted.applicant(caller)):
            async with self._context.images.turn(caller.tenant, caller.weight) as thread:
                return await wanted.with_our_files(thread, self._context.settings.max_image_pixels, is_opaque=True)

    def _files(self, tenant: str, task: ImageTask) -> Mapping[InputImage, bytes]:
        if task.images and self._uploads is None:
            raise no_jobs()
        return {image: self._uploads.read(tenant, image.value) for image in task.images if self._uploads is not None}

    async def _cancel(self, caller: Caller, prompt: Prompt) -> None:
        try:
            await self._prompts.jobs.cancel(caller, prompt.record.id)
        except (JobEnded, NotFound):  # it was over before it was told to be
            return


def _read(model: type[BodyT], body: object) -> BodyT:
    """Return a body of which every field may be missing.  Raises RequestError."""
    try:
        return model.model_validate(body or {})
    except ValidationError:
        raise RequestError("The body is not of the form that this route reads.") from None


async def _read_anything(request: Request) -> object:
    """Return a JSON body; None for one that is none, which some clients send where nothing is to be said."""
    try:
        return await read_json(request)
    except RequestError:
        return None
