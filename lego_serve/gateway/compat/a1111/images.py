"""Handlers of A1111's routes that make images, or read how one was made."""

import time
from collections.abc import Mapping
from contextlib import ExitStack

from fastapi import Request
from fastapi.responses import JSONResponse

from lego_serve.compat.a1111.answers import png_info
from lego_serve.compat.a1111.bodies import ImageToImage, TextToImage, read_body
from lego_serve.compat.a1111.translate import translate
from lego_serve.compat.task import Refused
from lego_serve.gateway.compat.a1111.jobs import answer_of, make_foreign, run_images
from lego_serve.gateway.compat.a1111.options import TenantOptions
from lego_serve.gateway.compat.a1111.runs import Run, Runs
from lego_serve.gateway.compat.bodies import held_json
from lego_serve.gateway.compat.callers import foreign_caller
from lego_serve.gateway.compat.media import file_of_base64, png_text
from lego_serve.gateway.context import Context
from lego_serve.gateway.run_job import record_outcome

LARGE = ("init_images", "mask", "alwayson_scripts")  # not kept while images are made


class ImageHandlers:
    """Answers requests for images."""

    def __init__(self, context: Context, runs: Runs, options: TenantOptions) -> None:
        self._context, self._runs, self._options = context, runs, options

    async def text_to_image(self, request: Request) -> JSONResponse:
        """Make images from a prompt."""
        return await self._make(request, TextToImage)

    async def image_to_image(self, request: Request) -> JSONResponse:
        """Make images from an image, or redraw a part of it."""
        return await self._make(request, ImageToImage)

    async def png_info(self, request: Request) -> JSONResponse:
        """Read the parameters that a PNG of ours holds."""
        foreign_caller(self._context, request)
        async with held_json(request) as body:
            image = body.get("image") if isinstance(body, Mapping) else None
            if not isinstance(image, str):
                raise Refused("`image` must be base64 of a PNG image", "image")
            return JSONResponse(png_info(png_text(file_of_base64(image, "image"))))

    async def _make(self, request: Request, model: type[TextToImage]) -> JSONResponse:
        context = self._context
        with ExitStack() as scope:
            record = scope.enter_context(record_outcome(context.metrics, request))
            caller = foreign_caller(context, request)
            await context.limits.check(request, caller.tenant)
            run = scope.enter_context(self._runs.begin(Run(caller.tenant, time.time())))
            async with held_json(request) as body:
                chosen = await self._options.get(caller.tenant)
                task = translate(read_body(model, body), chosen.checkpoint)
                assert isinstance(body, Mapping), "read_body takes nothing else"
                asked = {name: value for name, value in body.items() if name not in LARGE}
                wanted = await make_foreign(context, task)
                record.begin(wanted.workflow.name)
                await context.limits.hold(caller.tenant, scope)
                place = scope.enter_context(context.admission.reserve(wanted.applicant(caller)))
                run.expected_at = context.admission.expected_at
                bound = await wanted.bind(context, caller)
                del body, wanted
            await context.limits.charge(caller.tenant, bound.work(context.settings.tiers), request)
            made = await run_images(context, request, bound, place=place, run=run)
            return JSONResponse(await answer_of(context, task, asked, made))
