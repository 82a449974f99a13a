"""What every route is handed: who runs jobs, limits, metrics; and the caller of a request."""

import asyncio
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastapi import Request
from PIL import Image

from lego_serve.core.jobs.ports import JobRunner
from lego_serve.core.suggest import did_you_mean
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import NotFound
from lego_serve.gateway.errors import Forbidden, Unauthorized
from lego_serve.gateway.quality_checks import QualityChecks
from lego_serve.gateway.settings import Caller, GatewaySettings
from lego_serve.gateway.template_store import Template, TemplateFiles, no_template
from lego_serve.metrics import Metrics

log = logging.getLogger("lego_serve.gateway")


class JobIds:
    """The ids of the jobs of this process, so that no two in flight have the same."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    @contextmanager
    def taken(self, request: Request) -> Iterator[str]:
        """The id of a request's job: the request's own, unless its caller has given it to another one too."""
        name = f"job_{request.state.request_id}"
        if name in self._taken:
            name += f"-{uuid.uuid4().hex[:8]}"
        self._taken.add(name)
        try:
            yield name
        finally:
            self._taken.discard(name)


@dataclass(frozen=True, slots=True)
class Context:
    """The gateway's parts, the same for every request."""

    runner: JobRunner
    settings: GatewaySettings
    metrics: Metrics
    quality_checks: QualityChecks
    templates: TemplateFiles | None = None
    job_ids: JobIds = field(default_factory=JobIds)

    def authenticate(self, request: Request, *, admin: bool = False) -> Caller:
        """Who calls.  Raises Unauthorized or Forbidden."""
        if not self.settings.keys:
            return Caller()
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        caller = self.settings.caller(token.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise Unauthorized("An API key is needed: `Authorization: Bearer KEY`.")
        if admin and not caller.is_admin:
            raise Forbidden("This needs a key of scope `admin`.")
        return caller

    def workflow(self, name: str | None) -> Workflow:
        """The workflow of a name, or else the default one.  Raises NotFound."""
        workflow = self.runner.workflows.get(name or self.settings.default_workflow)
        if workflow is None:
            said = did_you_mean("model", str(name), self.runner.workflows, "GET /v1/models lists them")
            raise NotFound(said, param="model", code="model_not_found")
        return workflow

    async def template(self, caller: Caller, name: str) -> Template:
        """A template of the caller's.  Raises NotFound."""
        if self.templates is None:
            raise no_template()
        return await asyncio.to_thread(self.templates.get, caller.tenant, name)

    async def template_image(self, caller: Caller, template: Template) -> Image.Image:
        """Its image.  Raises NotFound."""
        if self.templates is None:
            raise no_template()
        return await asyncio.to_thread(self.templates.image, caller.tenant, template)
