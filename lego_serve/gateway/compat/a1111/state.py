"""Handlers of A1111's routes about what runs, and about the model that the next images are made with."""

import time
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import JSONResponse

from lego_serve.compat.a1111.answers import Progress, progress
from lego_serve.compat.a1111.options import Options, changed, shown
from lego_serve.core.jobs.job import GeneratedImage
from lego_serve.gateway.compat.a1111.options import TenantOptions
from lego_serve.gateway.compat.a1111.runs import Run, Runs
from lego_serve.gateway.compat.bodies import read_json
from lego_serve.gateway.compat.callers import foreign_caller
from lego_serve.gateway.compat.catalogue import known_models, shown_models
from lego_serve.gateway.compat.media import png_base64
from lego_serve.gateway.context import Context
from lego_serve.gateway.media.codec import enlarge
from lego_serve.gateway.peers import Peers, is_from_peer

JOB = "scripts_txt2img"  # A1111's name of the job that runs
CHOSEN = "checkpoint"  # of a query by which gateways tell each other what a tenant has chosen


class StateHandlers:
    """Answers requests about the caller's runs and options, in all gateways together.

    A request for images runs in the gateway that took it, and the next one may come to another: what is not known
    here is asked of the peers.
    """

    def __init__(self, context: Context, peers: Peers | None, runs: Runs, options: TenantOptions) -> None:
        self._context, self._peers, self._runs, self._options = context, peers, runs, options

    async def progress(self, request: Request) -> JSONResponse:
        """How far the caller's oldest request is."""
        caller = foreign_caller(self._context, request)
        has_image = request.query_params.get("skip_current_image", "false").lower() not in ("true", "1")
        runs = self._runs.of(caller.tenant)
        if not runs:
            for answer in await self._ask(request, "GET", f"progress?skip_current_image={not has_image}"):
                if answer["state"]["job_count"]:
                    return JSONResponse(answer)
            return JSONResponse(progress(Progress()))
        run = runs[0]
        return JSONResponse(progress(await self._progress(run, has_image=has_image)))

    async def interrupt(self, request: Request) -> JSONResponse:
        """Stop the caller's requests, which are answered with what there is of their images."""
        return await self._stop(request, "interrupt")

    async def skip(self, request: Request) -> JSONResponse:
        """Stop the caller's requests likewise; each is one batch here."""
        return await self._stop(request, "skip")

    async def show_options(self, request: Request) -> JSONResponse:
        """What the caller has chosen."""
        caller = foreign_caller(self._context, request)
        chosen = await self._options.get(caller.tenant)
        return JSONResponse(shown(chosen, shown_models(self._context)[0]))

    async def set_options(self, request: Request) -> JSONResponse:
        """Choose the model of the caller's next images."""
        caller = foreign_caller(self._context, request)
        if is_from_peer(request):
            chosen = Options(request.query_params.get(CHOSEN) or None)
        else:
            before = await self._options.get(caller.tenant)
            chosen = changed(before, await read_json(request), known_models(self._context))
        await self._options.set(caller.tenant, chosen)
        if not self._options.are_shared:
            await self._ask(request, "POST", f"options?{CHOSEN}={quote(chosen.checkpoint or '')}")
        return JSONResponse(None)

    async def _stop(self, request: Request, how: str) -> JSONResponse:
        caller = foreign_caller(self._context, request)
        for run in self._runs.of(caller.tenant):
            run.is_interrupted, run.is_skipped = run.is_interrupted or how == "interrupt", how == "skip"
            self._context.runner.cancel(run.job_id)
        await self._ask(request, "POST", how)
        return JSONResponse(None)

    async def _ask(self, request: Request, method: str, path: str) -> list[Any]:
        return [] if self._peers is None else await self._peers.ask(request, method, f"/sdapi/v1/{path}")

    async def _progress(self, run: Run, *, has_image: bool) -> Progress:
        preview = next((image for _, image in sorted(run.previews.items())), None) if has_image else None
        drawn = None if preview is None else await self._context.images.write(_drawn, preview, run.size)
        return Progress(
            is_running=True,
            job=JOB,
            job_timestamp=time.strftime("%Y%m%d%H%M%S", time.localtime(run.began_s)),
            step=run.step,
            steps=run.steps,
            eta_s=run.eta_s(self._context.runner.now()),
            is_interrupted=run.is_interrupted,
            is_skipped=run.is_skipped,
            image=drawn,
        )


def _drawn(preview: GeneratedImage, size: tuple[int, int]) -> str:
    return png_base64(enlarge(preview, *size), "")
