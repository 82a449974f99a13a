"""Carries out a request with an `Idempotency-Key` once, on every route that changes something.

Requests for images become durable jobs, which know their keys themselves.  The answer to any other is kept as long as
jobs are, and given again to whoever repeats the request; while the first one is at work, a repeat waits for it.  Within
one gateway it asks nobody; what another gateway is at work on is looked after by one task for all that wait here.  The
store, which may be the memory of a Redis, keeps short answers; long ones, such as images of AUTOMATIC1111's routes, are
files beside those of jobs, and the store keeps their names.
"""

import asyncio
import base64
import hashlib
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from fastapi import Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lego_serve.core.durable_jobs.idempotency import check_key
from lego_serve.core.durable_jobs.store import JobStore
from lego_serve.errors import IdempotencyKeyReused, LegoError, NotFound, StoreUnavailable
from lego_serve.gateway.errors import CLIENT_LEFT, JobsDisabled, error_response
from lego_serve.gateway.media.body_hash import BodyHash
from lego_serve.gateway.repeats.answers import FORGOTTEN, RecordedAnswer, StoredAnswer
from lego_serve.gateway.repeats.waiting import Repeats, awaited
from lego_serve.gateway.settings import Caller
from lego_serve.gateway.transport.draining import Draining
from lego_serve.jobstore.files import JobFiles

log = logging.getLogger("lego_serve.jobs")
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
DURABLE = ("/v1/images/generations", "/v1/images/edits", "/v1/jobs")  # they know their keys themselves
RUNNING_S = 60.0  # what nobody has said for so long to be at work, since its gateway died, is taken for not done
SAY_S = RUNNING_S / 3  # between two times that a request is said to be at work
POLL_S, MAX_POLL_S = 0.1, 2.0  # before the first look at what another gateway does, and at most between two
FORGET_S = 0.001
MAX_NOTE_BYTES = 256 * 1024  # of an answer that the store keeps itself
REPLAYED = (b"idempotency-replayed", b"true")
HEADER = "idempotency-key"


@dataclass(slots=True, eq=False)
class _End:
    """What a key will stand for whose first request is at work, and the task that looks after another gateway's."""

    answer: "asyncio.Future[StoredAnswer]"
    looking: "asyncio.Task[None] | None" = None


class OnceOnly:
    """Answers a repeated request as the first one was; ``kept_in`` is where answers are kept, None for nowhere.

    A key counts for its tenant; ``caller_of`` says whose a request is, and None where that may not ask at all.
    """

    def __init__(
        self,
        app: ASGIApp,
        kept_in: tuple[JobStore, JobFiles] | None,
        keep_s: float,
        caller_of: Callable[[Request], Caller | None],
        draining: Draining,
    ) -> None:
        self._app, self._keep_s, self._caller_of, self._draining = app, keep_s, caller_of, draining
        self._repeats = Repeats()
        self._ends: dict[str, _End] = {}
        self._store: JobStore | None
        self._files: JobFiles | None
        self._store, self._files = kept_in or (None, None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        has_key = scope["type"] == "http" and any(name == HEADER.encode() for name, _ in scope["headers"])
        is_kept = has_key and scope["method"] in UNSAFE and scope["path"] not in DURABLE
        caller = self._caller_of(Request(scope)) if is_kept else None
        if caller is None:
            await self._app(scope, receive, send)
            return
        try:
            answer = await self._answer(Request(scope, receive), caller, send)
        except LegoError as error:
            answer = error_response(error)
        if answer is not None:
            await answer(scope, receive, send)

    async def _answer(self, request: Request, caller: Caller, send: Send) -> Response | None:
        """Return a kept answer, or None after the request was carried out.  Raises LegoError."""
        store = self._store
        if store is None:
            raise JobsDisabled
        name = _name(caller, request)
        end = self._ends.get(name)
        if end is not None:
            return await self._repeated(store, request, caller, name, end)
        end = self._ends[name] = _End(asyncio.get_running_loop().create_future())
        try:
            running = StoredAnswer(secrets.token_hex(16))
            kept = await self._note(store, name, running)
            while kept == FORGOTTEN:  # it is about to lapse, and nobody is at work; what follows takes its place
                await asyncio.sleep(FORGET_S)
                kept = await self._note(store, name, running)
            if kept == running:
                await self._carry_out(store, name, running, end, request, send)
                return None
            if kept.status:
                self._settle(name, end, kept)
            else:
                end.looking = asyncio.ensure_future(self._look(store, name, running, end))
            return await self._repeated(store, request, caller, name, end)
        finally:
            if end.looking is None:
                self._settle(name, end)

    async def _repeated(self, store: JobStore, request: Request, caller: Caller, name: str, end: _End) -> Response:
        """Return the answer to the request that came first, once there is one.  Raises LegoError."""
        body = _hash_of(request)
        try:
            with self._repeats.waiting(caller.tenant, name):
                async for chunk in request.stream():
                    body.add(chunk)
                kept = await awaited(request, self._draining, end.answer)
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)
        finally:
            if end.looking is not None and not self._repeats.has(name):
                self._settle(name, end)  # which ends the looking as well
        if not kept.status:
            raise StoreUnavailable("The request that came first with this Idempotency-Key was given up; try again.")
        if kept.fingerprint != await body.digest():
            raise IdempotencyKeyReused(
                "This Idempotency-Key was used for another request; send a key of its own with each request."
            )
        answer = Response(await self._content(store, name, kept), kept.status, dict(kept.headers))
        answer.raw_headers.append(REPLAYED)
        return answer

    async def _look(self, store: JobStore, name: str, running: StoredAnswer, end: _End) -> None:
        """Look now and then, for all that wait here, what the request that another gateway is at work on comes to."""
        pause_s = POLL_S
        try:
            while not (await asyncio.wait((end.answer,), timeout=pause_s))[0]:
                pause_s = min(MAX_POLL_S, 2 * pause_s)
                kept = await self._note(store, name, running)
                if kept == running:  # nobody is at work any more
                    await self._forget(store, name)
                    return
                if kept.status:
                    self._settle(name, end, kept)
        except StoreUnavailable as error:
            log.warning("it cannot be seen what a request with a key has come to: %s", error.message)
        finally:
            self._settle(name, end)

    def _settle(self, name: str, end: _End, kept: StoredAnswer = FORGOTTEN) -> None:
        """Tell those that wait for a key what it stands for, unless they were told; who comes next asks the store."""
        if self._ends.get(name) is end:
            del self._ends[name]
        if not end.answer.done():
            end.answer.set_result(kept)

    async def _carry_out(
        self, store: JobStore, name: str, running: StoredAnswer, end: _End, request: Request, send: Send
    ) -> None:
        recorded, is_answered = RecordedAnswer(_hash_of(request)), asyncio.Event()
        saying = asyncio.ensure_future(self._say_at_work(store, name, running, is_answered))

        async def receive_and_record() -> Message:
            message = await request.receive()
            recorded.hear(message)
            return message

        async def send_and_record(message: Message) -> None:
            recorded.add(message)
            if not message.get("more_body", False) and message["type"] == "http.response.body":
                is_answered.set()
                await saying  # so that nothing it says comes after the answer
                try:
                    self._settle(name, end, await self._keep(store, name, running, recorded))
                except StoreUnavailable as error:  # the answer has begun, and what was done is done
                    self._settle(name, end)
                    log.warning("the answer to a request with a key could not be kept: %s", error.message)
            await send(message)

        try:
            await self._app(request.scope, receive_and_record, send_and_record)
        finally:
            saying.cancel()
            if not is_answered.is_set():
                with suppress(StoreUnavailable):
                    await self._forget(store, name)

    async def _say_at_work(self, store: JobStore, name: str, running: StoredAnswer, is_answered: asyncio.Event) -> None:
        """Say now and then that a request is at work still, until it is answered or another has taken its key."""
        while not is_answered.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(SAY_S):
                    await is_answered.wait()
                    return
            with suppress(StoreUnavailable):
                if await self._note(store, name, running) != running:
                    return
                await store.note(name, running.to_json(), RUNNING_S, replaces=True)

    async def _keep(self, store: JobStore, name: str, running: StoredAnswer, recorded: RecordedAnswer) -> StoredAnswer:
        """Keep an answer, and return it; or forget that there was one, where it says what may pass."""
        if not recorded.is_to_be_kept:
            await self._forget(store, name)
            return FORGOTTEN
        answer = StoredAnswer(await recorded.body.digest(), recorded.status, recorded.headers)
        content = b"".join(recorded.chunks)
        if len(content) <= MAX_NOTE_BYTES:
            answer = replace(answer, body=base64.b64encode(content).decode())
        else:
            answer = replace(answer, file=running.fingerprint)
            try:
                await asyncio.to_thread(self._known_files.write_answer, answer.file, content)
            except StoreUnavailable:
                await self._forget(store, name)
                raise
        await store.note(name, answer.to_json(), self._keep_s, replaces=True)
        return answer

    async def _content(self, store: JobStore, name: str, kept: StoredAnswer) -> bytes:
        """Return the content of a kept answer.  Raises StoreUnavailable where its file is gone."""
        if not kept.file:
            return base64.b64decode(kept.body)
        try:
            return await asyncio.to_thread(self._known_files.read_answer, kept.file)
        except NotFound:
            await self._forget(store, name)
            raise StoreUnavailable("The answer kept under this Idempotency-Key is gone; try again.") from None

    @property
    def _known_files(self) -> JobFiles:
        assert self._files is not None, "where there is a store there are files"
        return self._files

    async def _note(self, store: JobStore, name: str, running: StoredAnswer) -> StoredAnswer:
        """Take the key for this request, unless it is taken; return what it stands for then."""
        return StoredAnswer.of_json(await store.note(name, running.to_json(), RUNNING_S, replaces=False))

    async def _forget(self, store: JobStore, name: str) -> None:
        await store.note(name, FORGOTTEN.to_json(), FORGET_S, replaces=True)


def _hash_of(request: Request) -> BodyHash:
    return BodyHash(request.method, request.url.path, request.headers.get("content-type", ""))


def _name(caller: Caller, request: Request) -> str:
    """Return what the answer is kept under: the key of this caller's tenant, apart for those who may do more."""
    key = check_key(request.headers[HEADER])
    whose = hashlib.sha256(f"{caller.tenant} {caller.is_admin}".encode()).hexdigest()
    return f"{whose} {key}"
