"""One listener at `/ws`: it is told of the prompts of its client id, whichever gateway accepted or runs them.

A listener may come before its prompt, after it, or to another gateway: what it has to hear of is found in the store.
"""

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass

from starlette.websockets import WebSocket, WebSocketDisconnect

from lego_serve.compat.comfyui.messages import Message, hello, queue_changed
from lego_serve.core.durable_jobs.preview import JobPreview
from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.errors import LegoError, StoreUnavailable
from lego_serve.gateway.compat.callers import foreign_caller
from lego_serve.gateway.compat.comfyui.errors import render
from lego_serve.gateway.compat.comfyui.events import Story
from lego_serve.gateway.compat.comfyui.files import no_jobs
from lego_serve.gateway.compat.comfyui.prompts import Prompt, Prompts
from lego_serve.gateway.context import Context
from lego_serve.task_end import end_tasks

LOOK_S = 0.4  # between two looks for prompts that other gateways accept
REPEAT_S = 5.0  # after which the status is told again: some clients take ten seconds of silence for a lost connection
LATEST = 20  # prompts that are looked through for new ones
MAX_WAITING = 64  # messages to a slow reader, above which it gets no further previews
MOST_WAITING = 1024  # above which a reader is so far behind that it is to begin anew
MAX_ID = 256
GOING_AWAY, TRY_AGAIN = 1012, 1013  # the codes of a server that stops, and of one that has no room
log = logging.getLogger("lego_serve.gateway")


@dataclass(frozen=True, slots=True)
class Seen:
    """A tenant's prompts as they were seen: those that have not ended, and the latest of all."""

    open: list[Prompt]
    latest: list[Prompt]


NOTHING = Seen([], [])


class Looks:
    """Looks at the prompts of a tenant, once for all of its listeners that look again at about the same time."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts
        self._seen: dict[str, tuple[float, int, Seen]] = {}  # by tenant, with the time and what was accepted by then
        self._under_way: dict[str, tuple[int, asyncio.Task[Seen]]] = {}  # by tenant, with what was accepted before it

    async def look(self, tenant: str) -> Seen:
        """Return a tenant's prompts as they are now.  Raises StoreUnavailable."""
        accepted = self.prompts.accepted.count
        running, waiting = await self.prompts.open(tenant)
        latest = await self.prompts.latest(tenant, LATEST)
        seen = Seen([*running, *waiting], latest)
        self._seen[tenant] = asyncio.get_running_loop().time(), accepted, seen
        return seen

    async def look_again(self, tenant: str) -> Seen:
        """Return a tenant's prompts as they were a moment ago at the longest.  Raises StoreUnavailable."""
        loop, wanted = asyncio.get_running_loop(), self.prompts.accepted.count
        while True:
            seen_at, accepted, seen = self._seen.get(tenant, (0.0, -1, NOTHING))
            if loop.time() - seen_at < LOOK_S / 2 and accepted >= wanted:
                return seen
            accepted, task = self._under_way.get(tenant) or self._begin(tenant)
            seen = await asyncio.shield(task)  # which others wait for too
            if accepted >= wanted:
                return seen

    def _begin(self, tenant: str) -> tuple[int, "asyncio.Task[Seen]"]:
        def end(task: "asyncio.Task[Seen]") -> None:
            del self._under_way[tenant]
            if not task.cancelled():
                task.exception()  # which nobody may be left to hear

        task = asyncio.ensure_future(self.look(tenant))
        self._under_way[tenant] = self.prompts.accepted.count, task
        task.add_done_callback(end)
        return self._under_way[tenant]


class ListenerHandler:
    """Answers those who want to listen."""

    def __init__(self, context: Context, prompts: Prompts | None) -> None:
        self._context = context
        self._looks = None if prompts is None else Looks(prompts)

    async def listen(self, websocket: WebSocket) -> None:
        """Tell a client of its prompts until either side ends."""
        try:
            caller = foreign_caller(self._context, websocket)
            if self._looks is None:
                raise no_jobs()
            listener = Listener(self._context, self._looks, caller.tenant, websocket)
            first = listener.take_up(await self._looks.look(caller.tenant))
        except LegoError as error:
            await websocket.send_denial_response(render(error))
            return
        await websocket.accept()
        await listener.run(first)


class Listener:
    """A connection, what it has been told of, and what waits to be sent."""

    def __init__(self, context: Context, looks: Looks, tenant: str, websocket: WebSocket) -> None:
        self._context, self._looks, self._tenant, self._websocket = context, looks, tenant, websocket
        self._prompts = looks.prompts
        self._id = websocket.query_params.get("clientId", "")[:MAX_ID] or uuid.uuid4().hex
        self._known: set[str] = set()  # jobs that it is or was told of, or that ended before it came
        self._stories: dict[str, Story] = {}  # by job, of those that it is told of now
        self._waiting: asyncio.Queue[Message] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_behind = asyncio.Event()
        self._wants_previews = False
        self._remaining = 0

    def take_up(self, seen: Seen) -> list[Prompt]:
        """Return the prompts to tell of from now on: those of this client that have not ended, and new ones."""
        self._remaining = len(seen.open)
        found = {prompt.record.id: prompt for prompt in (*seen.open, *reversed(seen.latest))}
        return [prompt for job, prompt in found.items() if prompt.client_id == self._id and job not in self._known]

    async def run(self, first: list[Prompt]) -> None:
        """Tell of prompts until the client leaves or the server stops."""
        self._send(hello(self._id, self._remaining))
        for prompt in first:
            if prompt.record.status.has_ended:
                self._known.add(prompt.record.id)
            else:
                self._follow(prompt)
        mains = [self._start(main) for main in (self._receive(), self._look_on(), self._write(), self._fall_behind())]
        try:
            await asyncio.wait(mains, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(self._tasks)
        code = GOING_AWAY if self._context.draining.has_begun else TRY_AGAIN if self._is_behind.is_set() else None
        if code is not None:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await self._websocket.close(code)

    def _start(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a listener's task failed", exc_info=error)

    def _send(self, *told: Message) -> None:
        for message in told:
            if self._waiting.qsize() >= MOST_WAITING:
                self._is_behind.set()
            elif isinstance(message, dict) or self._waiting.qsize() < MAX_WAITING:
                self._waiting.put_nowait(message)

    async def _fall_behind(self) -> None:
        await self._is_behind.wait()

    async def _receive(self) -> None:
        """Read what the client says: what it can do."""
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                message = await self._websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                self._note(message.get("text") or "")

    def _note(self, text: str) -> None:
        with contextlib.suppress(ValueError, RecursionError):
            said = json.loads(text) if len(text) < 10_000 else None
            if isinstance(said, dict) and said.get("type") == "feature_flags":
                self._wants_previews = True

    async def _write(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while True:
                message = await self._waiting.get()
                if isinstance(message, bytes):
                    await self._websocket.send_bytes(message)
                else:
                    await self._websocket.send_text(json.dumps(message))

    async def _look_on(self) -> None:
        """Look for new prompts, and repeat the status, as long as the server does not stop."""
        loop = asyncio.get_running_loop()
        told, told_at = self._remaining, loop.time()
        while not self._context.draining.has_begun:
            await self._prompts.accepted.wait(LOOK_S)
            with contextlib.suppress(StoreUnavailable):
                await self._look()
            if told != self._remaining or loop.time() - told_at > REPEAT_S:
                told, told_at = self._remaining, loop.time()
                self._send(queue_changed(told))

    async def _look(self) -> None:
        seen = await self._looks.look_again(self._tenant)
        for prompt in self.take_up(seen):
            self._follow(prompt)
        for prompt in seen.latest:
            story = self._stories.get(prompt.record.id)
            if story is not None and prompt.record.status.has_ended:  # it may have ended just before its watch began
                await self._hear(story, prompt.record)

    def _follow(self, prompt: Prompt) -> None:
        self._known.add(prompt.record.id)
        self._start(self._tell(prompt))

    async def _tell(self, prompt: Prompt) -> None:
        story = self._stories[prompt.record.id] = Story(prompt)
        try:
            async for event in self._prompts.jobs.watch(prompt.record):
                if isinstance(event, JobPreview):
                    is_shown = prompt.has_previews or self._wants_previews
                    self._send(*story.of_preview(event, is_shown=is_shown))
                elif event is not None:
                    await self._hear(story, event)
                if story.is_over:
                    return
        except StoreUnavailable:
            self._known.discard(prompt.record.id)  # it is found again when the store is back
        finally:
            del self._stories[prompt.record.id]

    async def _hear(self, story: Story, record: JobRecord) -> None:
        """Tell what a state of a prompt means; an end with how many are left then.  Raises StoreUnavailable."""
        remaining = await self._prompts.remaining(self._tenant) if record.status.has_ended else 0
        self._send(*story.of_record(record, remaining))
