"""Requests and their answers on one connection: those that are ordinary on a short way, all others by h11's events.

On the short way a request is read at once and an answer goes out in one piece.  Both leave h11's states as h11 itself
would have them, so that any request may go either way, and any answer.
"""

import asyncio
from typing import NamedTuple
from urllib.parse import unquote

import h11
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol, RequestResponseCycle

from lego_serve.gateway.transport.departures import EXTENSION, Heard
from lego_serve.gateway.transport.ordinary import Header, OrdinaryHead, ordinary_answer
from lego_serve.gateway.transport.parser import RequestParser

JOINED_BYTES = 64 * 1024  # of a body that goes out in one piece with its head; a larger one is not copied for that


class Held(NamedTuple):
    """The head of an answer that waits for its body, of ``length`` bytes."""

    head: bytes
    length: int
    status: int
    headers: list[Header]
    release: asyncio.Handle


class Cycle(RequestResponseCycle):
    """One request and its answer.

    The head of an ordinary answer is held until its body comes, but only as long as the application goes on without a
    pause: nobody waits for a head that is there.
    """

    conn: RequestParser
    _held: Held | None = None

    def departure(self) -> asyncio.Future[None]:
        """Return what is done as soon as the client has left, or has its answer."""
        self.flow.resume_reading()  # or nobody would see it leave
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def look() -> None:
            if (self.disconnected or self.response_complete) and not left.done():
                left.set_result(None)

        assert isinstance(self.message_event, Heard)
        self.message_event.on_set = look
        look()
        return left

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Have the application answer."""

        async def answer(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            try:
                await app(scope, receive, send)
            finally:
                self._send_head()

        await super().run_asgi(answer)

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the answer."""
        held = self._held
        is_ready = self.conn.awaits_answer and not (self.disconnected or self.flow.write_paused)
        if held is not None:
            if is_ready and message["type"] == "http.response.body" and not message.get("more_body", False):
                body = message.get("body", b"")
                if len(body) == held.length:
                    self._send_whole(held, body)
                    return
            self._send_head()
        elif is_ready and message["type"] == "http.response.start" and not self.response_started:
            headers = [*self.default_headers, *message.get("headers", ())]
            if self._hold(message["status"], headers):
                return
        await super().send(message)

    def _hold(self, status: int, headers: list[Header]) -> bool:
        """Hold the head of an answer; not where it is none of the ordinary ones."""
        found = ordinary_answer(status, STATUS_PHRASES.get(status, b""), headers)
        if found is None or self.scope["method"] == "HEAD":
            return False
        release = asyncio.get_running_loop().call_soon(self._send_head)
        self._held = Held(*found, status, headers, release)
        self.response_started, self.waiting_for_100_continue = True, False
        return True

    def _send_head(self) -> None:
        """Send the head that is held, if one is: its body comes later, or in parts, or never."""
        if (held := self._held) is None:
            return
        self._held = None
        held.release.cancel()
        if not self.disconnected:
            reason = STATUS_PHRASES[held.status]
            response = h11.Response(status_code=held.status, headers=held.headers, reason=reason)
            self.transport.write(self.conn.send(response))

    def _send_whole(self, held: Held, body: bytes) -> None:
        """Send an answer, which ends it."""
        self._held = None
        held.release.cancel()
        self.response_complete = True
        self.message_event.set()
        self.conn.note_answer()
        if len(body) <= JOINED_BYTES:
            self.transport.write(held.head + body)
        else:
            self.transport.write(held.head)
            self.transport.write(body)
        if not self.keep_alive:
            self.conn.send(h11.ConnectionClosed())
            self.transport.close()
        self.on_response()


class RequestProtocol(H11Protocol):
    """uvicorn's protocol over h11, with the short way."""

    _parser: RequestParser

    def begin_ordinary(self, data: bytes) -> bool:
        """Begin an ordinary request that has come; not where h11 is to read it."""
        head = self._parser.take_ordinary(data) if len(data) <= HIGH_WATER_LIMIT else None
        if head is None:
            return False
        self._begin(head)
        if self._parser.awaits_answer:
            self.cycle.body += data[head.size :]
            self.cycle.more_body = False
            self.cycle.message_event.set()
        elif len(data) > head.size:
            super().data_received(data[head.size :])
        return True

    def _begin(self, head: OrdinaryHead) -> None:
        """Have the application answer a request, as ``handle_events`` does for one that h11 has read."""
        raw_path, _, query_string = head.target.partition(b"?")
        self.headers = head.headers
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,  # type: ignore[typeddict-item]
            "method": head.method.decode("ascii"),
            "root_path": self.root_path,
            "path": self.root_path + unquote(raw_path.decode("ascii")),
            "raw_path": self.root_path.encode("ascii") + raw_path,
            "query_string": query_string,
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        self.cycle = Cycle(
            scope=self.scope,
            conn=self.conn,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=Heard(),
            on_response=self.on_response_complete,
        )
        self.scope["extensions"] = {EXTENSION: self.cycle.departure}  # type: ignore[dict-item]
        task = self.loop.create_task(self.cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_response_complete(self) -> None:
        """Go on with what has come meanwhile, or wait for it; how long is for ``GatewayProtocol`` to say."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.conn.our_state is h11.DONE and self.conn.their_state is h11.DONE:
            self.conn.start_next_cycle()
            if self._parser.has_unread:
                self.handle_events()
