"""Prepares templates before they are edited: runs an edit of one token, otherwise as edits will be.

It takes the way of any edit, so that its activations come to be where edits of the template go.  It ends early when
the template is removed, with the client that waits for it, at the server's deadline, and with the gateway.
"""

import asyncio
import logging
import secrets
from contextlib import ExitStack

import numpy as np

from lego_serve.core.editing.edit import EditInput, is_described
from lego_serve.core.jobs.job import Job
from lego_serve.errors import LegoError
from lego_serve.gateway.context import Context
from lego_serve.gateway.requests.job_request import settled_tier
from lego_serve.gateway.requests.template_schemas import WarmRequest
from lego_serve.gateway.routes.template_costs import template_inputs
from lego_serve.gateway.run_job import bounded
from lego_serve.gateway.settings import Caller
from lego_serve.gateway.template_store import Template

log = logging.getLogger("lego_serve.gateway")


class TemplateWarmup:
    """Runs the warming edits of one gateway."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._tasks: dict[asyncio.Task[int], tuple[str, str]] = {}  # each with its tenant and template
        context.on_close.append(self.close)

    async def prepare(self, caller: Caller, template: Template, warm: WarmRequest) -> Job:
        """Return the edit that warms a template.  Raises RequestError, or NotFound where its workflow is gone."""
        workflow = self._context.workflow(template.workflow)
        inputs = template_inputs(workflow, template, warm)
        tier = settled_tier(workflow, inputs, self._context.settings.tiers, is_named=warm.tier is not None)
        token_side = self._context.settings.size_multiple
        async with self._context.images.turn(caller.tenant, caller.weight) as thread:
            image = await self._context.template_image(thread, caller, template)
            pixels = await thread.read(np.asarray, image)
        weight = np.zeros(pixels.shape[:2], np.uint8)
        weight[:token_side, :token_side] = 255
        edit = EditInput(
            pixels=pixels,
            weight=weight,
            image=template.image,
            pin=template.pin,
            is_described=is_described(inputs),
        )
        return Job(
            id=f"job_warm-{secrets.token_hex(8)}",
            workflow=workflow.name,
            inputs=inputs | {"edit": edit},
            submitted_s=self._context.runner.now(),
            tenant=caller.tenant,
            weight=caller.weight,
            tier=tier,
        )

    def start(self, caller: Caller, job: Job, template: Template, scope: ExitStack) -> "asyncio.Task[int]":
        """Run a prepared edit; ``scope`` is closed when it ends, and the task returns how many passes it took."""
        task = asyncio.ensure_future(self._run(bounded(self._context, job), scope))
        self._tasks[task] = (caller.tenant, template.id)
        task.add_done_callback(lambda ended: self._ended(ended, template.id))
        return task

    def cancel(self, tenant: str, template_id: str) -> int:
        """End the warming of a template; return how many edits it was."""
        tasks = [task for task, key in self._tasks.items() if key == (tenant, template_id)]
        for task in tasks:
            task.cancel()
        return len(tasks)

    async def close(self) -> None:
        """End all warming."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: Job, scope: ExitStack) -> int:
        with scope:
            result = await self._context.runner.run(job)
        self._context.metrics.record_result(self._context.runner.workflows[job.workflow], result)
        return sum(stats.reuse.primed for stats in result.stats.values() if stats.reuse is not None)

    def _ended(self, task: "asyncio.Task[int]", template_id: str) -> None:
        del self._tasks[task]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LegoError):
            log.info("template %s was not warmed: %s", template_id, error.code)
        elif error is not None:
            log.error("template %s was not warmed", template_id, exc_info=error)
