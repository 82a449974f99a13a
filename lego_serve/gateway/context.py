"""The parts of the gateway that every route uses, and look-ups on behalf of a request's caller."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request
from PIL import Image

from lego_serve.core.jobs.job import Job, JobResult
from lego_serve.core.jobs.ports import ClusterAdmin, JobRunner
from lego_serve.core.suggest import did_you_mean
from lego_serve.core.workflow.graph import Workflow
from lego_serve.core.workflow.tiers import at_tier
from lego_serve.errors import NotFound
from lego_serve.gateway.admission import Admission
from lego_serve.gateway.errors import Forbidden, Unauthorized
from lego_serve.gateway.job_ids import JobIds
from lego_serve.gateway.limits.tenant_limits import TenantLimiter
from lego_serve.gateway.links.kept_images import KeptImages
from lego_serve.gateway.media.workers import ImageWorkers, UploadThread
from lego_serve.gateway.quality_checks import QualityChecks
from lego_serve.gateway.settings import Caller, GatewaySettings, Keys
from lego_serve.gateway.telemetry.access_log import note_admin_route
from lego_serve.gateway.telemetry.tracing import Tracing
from lego_serve.gateway.template_store import Template, TemplateFiles, no_template
from lego_serve.gateway.transport.draining import Draining
from lego_serve.metrics import Metrics
from lego_serve.process.log_facts import log_facts

if TYPE_CHECKING:
    from lego_serve.gateway.jobs.service import DurableJobs


@dataclass(frozen=True, slots=True)
class Context:
    """The gateway's parts, the same for every request."""

    runner: JobRunner
    admin: ClusterAdmin
    settings: GatewaySettings
    metrics: Metrics
    admission: Admission
    quality_checks: QualityChecks
    limits: TenantLimiter
    keys: Keys
    templates: TemplateFiles | None = None
    job_ids: JobIds = field(default_factory=JobIds)
    draining: Draining = field(default_factory=Draining)
    images: ImageWorkers = field(default_factory=ImageWorkers)
    jobs: "DurableJobs | None" = None
    kept_images: KeptImages | None = None
    tracing: Tracing = field(default_factory=Tracing)
    on_close: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def close(self) -> None:
        """End what runs in the background and close what is open, as the gateway ends."""
        for close in self.on_close:
            await close()

    def authenticate(self, request: Request, *, admin: bool = False) -> Caller:
        """Return who calls.  Raises Unauthorized or Forbidden."""
        caller = self._caller(request)
        if admin:
            note_admin_route(request, None if caller is None else caller.key_id)
        if caller is None:
            raise Unauthorized("An API key is needed: `Authorization: Bearer KEY`.")
        log_facts().tenant = caller.tenant
        if admin and not caller.is_admin:
            raise Forbidden("This needs a key of scope `admin`.")
        if self.keys.are_needed:
            request.state.tenant = caller.tenant  # whose the request's body is
        return caller

    def _caller(self, request: Request) -> Caller | None:
        if not self.keys.are_needed:
            return Caller()
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return self.keys.caller(token.strip()) if scheme.lower() == "bearer" else None

    def record_result(self, workflow: Workflow, job: Job, result: JobResult) -> None:
        """Count a job of a workflow that ended well, by the checkpoints that it ran on."""
        self.metrics.record_result(at_tier(workflow, job.inputs, self.settings.tiers), result)

    def log_job(self, job_id: str, prompt: str) -> None:
        """Have the lines of the request at work name its job; its own has the prompt where the settings ask for it."""
        facts = log_facts()
        facts.job_id, facts.prompt = job_id, prompt if self.settings.log_prompts else None

    def workflow(self, name: str | None) -> Workflow:
        """Return the workflow of a name, the default one without a name.  Raises NotFound."""
        name = name or self.settings.default_workflow
        workflow = self.runner.workflows.get(self.settings.aliases.get(name, name))
        if workflow is None:
            message = did_you_mean("model", str(name), self.runner.workflows, "GET /v1/models lists them")
            raise NotFound(message, param="model", code="model_not_found")
        return workflow

    async def template(self, caller: Caller, template_id: str) -> Template:
        """Return one of the caller's templates.  Raises NotFound."""
        if self.templates is None:
            raise no_template()
        return await asyncio.to_thread(self.templates.get, caller.tenant, template_id)

    async def template_image(self, thread: UploadThread, caller: Caller, template: Template) -> Image.Image:
        """Return the image of one of the caller's templates.  Raises NotFound."""
        if self.templates is None:
            raise no_template()
        return await thread.read(self.templates.image, caller.tenant, template)
