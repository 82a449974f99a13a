"""Templates made ready before they are edited: an edit of one token, with all else as edits will have it.

It takes the way of any edit, so that its activations come to be where edits of the template go.
"""

import asyncio
import logging
import secrets
from dataclasses import replace

import numpy as np

from lego_serve.core.editing.edit import EditInput, is_described
from lego_serve.core.jobs.job import Job
from lego_serve.errors import CapacityError, LegoError
from lego_serve.gateway.context import Context
from lego_serve.gateway.requests.template_schemas import WarmRequest
from lego_serve.gateway.routes.template_costs import template_inputs
from lego_serve.gateway.settings import Caller
from lego_serve.gateway.template_store import Template

log = logging.getLogger("lego_serve.gateway")


class TemplateWarmup:
    """The warming edits of one gateway."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._tasks: set[asyncio.Task[int]] = set()

    def check_room(self) -> None:
        """Raise CapacityError where too many jobs are pending for one more."""
        context = self._context
        if context.runner.in_flight >= context.settings.max_pending_jobs:
            context.metrics.count_rejected("over_capacity")
            raise CapacityError("Too many requests are pending; try again shortly.", retry_after_s=2)

    async def start(self, caller: Caller, template: Template, ask: WarmRequest) -> "asyncio.Task[int]":
        """Warm a template; the task answers how many passes that took.  Raises RequestError."""
        context = self._context
        workflow = context.workflow(template.workflow)
        inputs = template_inputs(workflow, template, ask)
        pixels = np.asarray(await context.template_image(caller, template))
        side = context.settings.size_multiple
        weight = np.zeros(pixels.shape[:2], np.uint8)
        weight[:side, :side] = 255  # one token
        edit = EditInput(pixels, weight, image=template.image, pin=template.pin, is_described=is_described(inputs))
        name = f"job_warm-{secrets.token_hex(8)}"
        job = Job(name, workflow.name, inputs | {"edit": edit}, context.runner.now())
        job = replace(job, tenant=caller.tenant, weight=caller.weight)
        task = asyncio.ensure_future(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._ended(ended, template.id))
        return task

    async def _run(self, job: Job) -> int:
        metrics = self._context.metrics
        metrics.count_accepted()
        try:
            result = await self._context.runner.run(job)
        finally:
            metrics.count_left()
        metrics.record_result(self._context.runner.workflows[job.workflow], result)
        return sum(stats.reuse.primed for stats in result.stats.values() if stats.reuse is not None)

    def _ended(self, task: "asyncio.Task[int]", template: str) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LegoError):
            log.info("template %s was not warmed: %s", template, error.code)
        elif error is not None:
            log.error("template %s was not warmed", template, exc_info=error)
