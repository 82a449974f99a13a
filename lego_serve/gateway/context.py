"""What every route is handed: who runs jobs, limits, metrics; and the caller of a request."""

import asyncio
import logging
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastapi import Request
from PIL import Image
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lego_serve.core.names import unknown
from lego_serve.core.ports import JobRunner
from lego_serve.core.workflow import Workflow
from lego_serve.errors import LegoError, NotFound
from lego_serve.gateway.drift import DriftChecks
from lego_serve.gateway.errors import Forbidden, TooLarge, Unauthorized, error_response
from lego_serve.gateway.settings import Caller, GatewaySettings
from lego_serve.gateway.template_files import Template, TemplateFiles, no_template
from lego_serve.metrics import Metrics

log = logging.getLogger("lego_serve.gateway")
REQUEST_ID = re.compile(rb"[A-Za-z0-9_.-]{1,128}")
NO_GUESSING = (b"x-content-type-options", b"nosniff")  # an answer is of the type it says, whatever it looks like


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
    drift: DriftChecks
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
            said = unknown("model", str(name), self.runner.workflows, "GET /v1/models lists them")
            raise NotFound(said, param="model", code="model_not_found")
        return workflow

    async def template(self, caller: Caller, name: str) -> Template:
        """A template of the caller's.  Raises NotFound."""
        if self.templates is None:
            raise no_template()
        return await asyncio.to_thread(self.templates.get, caller.tenant, name)

    async def template_picture(self, caller: Caller, template: Template) -> Image.Image:
        """Its picture.  Raises NotFound."""
        if self.templates is None:
            raise no_template()
        return await asyncio.to_thread(self.templates.picture, caller.tenant, template)


class RequestIds:
    """ASGI middleware: every answer carries ``x-request-id``, the caller's where it is well formed, and ``nosniff``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and mark its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id), NO_GUESSING]
            await send(message)

        await self._app(scope, receive, marked)


class Unexpected:
    """ASGI middleware: what nobody expected is a 500 of ours, logged once.

    Starlette would answer it outside of all middleware, without the request's id, and log it twice.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:
            log.exception("unexpected error")
            if scope["type"] == "http" and not started:
                await error_response(LegoError("Something unexpected went wrong on the server."))(scope, receive, send)


class BodyLimit:
    """ASGI middleware: refuses a body above the limit as soon as it is announced or has arrived."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            await error_response(self._too_large())(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self._max_bytes} bytes.")
