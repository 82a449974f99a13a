"""HTTP/1.1 on one connection: uvicorn's protocol over h11, within limits of size and time.

What the parser refuses is answered in the shape of every other error.  Of a client that sends too slowly the answer
is 408; one that sends more than its request needs is closed; one that reads too slowly is closed.

A client that ends its sending side after its request gets its answer.  One that has left looks the same at first, so
it is asked for a sign of life (see ``hang_ups``).  Over HTTP/1.0, which has none to ask for, a FIN is a hang-up.
"""

import asyncio
import uuid
from typing import Any, Literal

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES
from uvicorn.server import ServerState

from lego_serve.errors import CapacityError, LegoError, RequestError
from lego_serve.gateway.errors import CUT_SHORT_AS, CUT_SHORT_STATUS, error_response
from lego_serve.gateway.middleware import CLOSE, DISCARD_BYTES, NO_SNIFFING
from lego_serve.gateway.transport.hang_ups import HangUpProbe
from lego_serve.gateway.transport.limits import AddressCounts, ConnectionLimits
from lego_serve.gateway.transport.lingering import LingeringTransport
from lego_serve.gateway.transport.parser import RequestParser
from lego_serve.gateway.transport.requests import RequestProtocol
from lego_serve.gateway.transport.websockets import GatewayWebSocket

UNFINISHED = (h11.IDLE, h11.SEND_BODY, h11.ERROR, h11.CLOSED)  # the client's states without a whole request
EMPTY_COMMENT = b":\n\n"  # of server-sent events, which the application sends whole
Phase = Literal["head", "idle", "body", "answer"]


class RequestTimeout(RequestError):
    """The request did not arrive in time."""

    status = 408
    code = "request_timeout"
    retryable = True


class GatewayProtocol(RequestProtocol):
    """One connection of the gateway."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
        addresses: AddressCounts,
        sockets: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits, self._addresses, self._sockets = limits, addresses, sockets
        self._parser = self.conn = RequestParser(limits)
        self._address: str | None = None
        self._probe: HangUpProbe | None = None
        self._phase: tuple[Phase, int] | None = None
        self._phase_began, self._body_deadline, self._bytes_before = 0.0, 0.0, 0
        self._timer: asyncio.TimerHandle | None = None
        self._discarded = 0
        self._is_handed_over = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection, unless its address has as many as it may have."""
        self._socket = LingeringTransport(
            transport, self.loop, self._limits, lambda: self.conn.their_state is h11.SEND_BODY
        )
        super().connection_made(self._socket)
        if self.client is not None and not self._addresses.enter(self.client[0]):
            most = self._limits.connections_per_address
            message = f"Your address has {most} connections open, and no more are taken; close some."
            self._refuse(CapacityError(message, code="too_many_connections"))
            return
        self._address = None if self.client is None else self.client[0]  # gateways' own sockets have no address
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        if self._address is not None:
            self._addresses.leave(self._address)
        if self._timer is not None:
            self._timer.cancel()
        if self._probe is not None:
            self._probe.stop()
        self._socket.forget()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Parse what arrives: a head in small parts, so that one that is too large is not parsed in whole."""
        if len(data) <= self._limits.head_bytes and not self._socket.is_closing() and self.begin_ordinary(data):
            self._watch()
            return
        if self.conn.their_state is h11.MUST_CLOSE:  # nothing that comes after its last request counts
            return
        while data and not self._socket.is_closing():
            size = self._limits.head_bytes if self.conn.their_state is h11.IDLE else len(data)
            part, data = data[:size], data[size:]
            if self._is_answered and self.conn.their_state is h11.SEND_BODY:
                self._discarded += len(part)
                if self._discarded > DISCARD_BYTES:
                    self._socket.linger()
                    break
            super().data_received(part)
            if self._is_handed_over:
                return
        if self._socket.is_lingering:
            self._socket.drop(data)
        self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection of a client that waits for an answer to its whole request."""
        if self._socket.is_closing() or self._is_answered or self.conn.their_state in UNFINISHED:
            return False
        if self._probe is None:
            if self.scope["http_version"] == "1.0":
                return False
            self._probe = HangUpProbe(self._socket, self.loop, self._ask_for_sign_of_life)
            self._probe.start(self._limits.half_close_grace_s)
        return True

    def on_response_complete(self) -> None:
        """Close where no further request can come, or wait for it."""
        self._discarded = 0
        super().on_response_complete()
        if self._probe is not None and self._is_answered:
            self._socket.close()
        self._watch()

    def shutdown(self) -> None:
        """Close when the request under way is answered."""
        if self._is_answered:
            self._socket.close()
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        """Watch whether a slow reader keeps to the least rate."""
        super().pause_writing()
        self._socket.watch_writes()

    def resume_writing(self) -> None:
        """Leave alone a reader that has caught up."""
        super().resume_writing()
        self._socket.rest_writes()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser has refused."""
        self._refuse(self._parser.refusal)

    @property
    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _should_upgrade(self) -> bool:
        """Whether a request opens a WebSocket where there is one; other offers are declined by an answer over HTTP."""
        is_offered = self.scope["path"] in self._sockets and self.scope["method"] == "GET"
        return is_offered and self._get_upgrade() == b"websocket"

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection over, with all that counts it."""
        self._is_handed_over = True
        if self._timer is not None:
            self._timer.cancel()
        self.connections.discard(self)
        address, self._address = self._address, None

        def end() -> None:
            if address is not None:
                self._addresses.leave(address)

        GatewayWebSocket(self.config, self.server_state, self.app_state, self._socket, end).take_over(event)

    def _ask_for_sign_of_life(self) -> None:
        if self.conn.our_state is h11.SEND_RESPONSE:
            interim = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self._socket.write(self.conn.send(interim))
        elif self.conn.our_state is h11.SEND_BODY and self._parser.is_streaming_events:
            self._socket.write(self.conn.send(h11.Data(data=EMPTY_COMMENT)))

    def _refuse(self, error: LegoError) -> None:
        """Answer with an error where an answer is still possible, and close."""
        request_id = uuid.uuid4().hex
        if not self._is_answered:
            request_id = self.scope["state"].get("request_id", request_id)
            self.scope["state"] |= {CUT_SHORT_AS: error.code, CUT_SHORT_STATUS: error.status}
            self.cycle.disconnected = True  # for the application the client has left
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = error_response(error)
            marks = [(b"x-request-id", request_id.encode()), NO_SNIFFING, CLOSE]
            headers = [*self.server_state.default_headers, *answer.raw_headers, *marks]
            is_head = self._is_answered is False and self.scope["method"] == "HEAD"
            for event in (
                h11.Response(status_code=error.status, headers=headers, reason=STATUS_PHRASES[error.status]),
                h11.Data(data=b"" if is_head else bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self._socket.write(self.conn.send(event))
        self._socket.linger()

    def _watch(self) -> None:
        """Set the time in which the client has to do what it does next."""
        if self._socket.is_closing():
            return
        phase = (self._current_phase(), self._parser.requests)
        now = self.loop.time()
        if phase == self._phase:
            if phase[0] == "body":
                received = self._parser.body_bytes - self._bytes_before
                self._body_deadline = self._limits.body_deadline(self._body_deadline, now, received)
                self._bytes_before = self._parser.body_bytes
            return
        self._phase, self._phase_began, self._bytes_before = phase, now, 0
        self._body_deadline = now + self._limits.body_timeout_s
        self._set_timer()

    def _current_phase(self) -> Phase:
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        if self.conn.their_state is h11.IDLE:
            return "head" if not self._parser.requests or self._parser.has_partial_head else "idle"
        return "answer"

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        assert self._phase is not None
        match self._phase[0]:
            case "head":
                time_s = self._limits.head_timeout_s
            case "body":
                time_s = self._body_deadline - self._phase_began
            case "idle":
                time_s = self._limits.keep_alive_s
            case "answer":
                return
        if self._phase_began + time_s > self.loop.time():
            self._timer = self.loop.call_at(self._phase_began + time_s, self._set_timer)
        else:
            self._time_out()

    def _time_out(self) -> None:
        assert self._phase is not None
        if self._socket.is_closing():
            return
        if self._phase[0] == "body" and self.flow.read_paused:  # it is us who are slow: the client's time begins anew
            self._body_deadline = self.loop.time() + self._limits.body_timeout_s
            self._bytes_before = self._parser.body_bytes
            self._set_timer()
        elif self._phase[0] == "body":
            rate, behind_s = self._limits.body_bytes_per_s, self._limits.body_timeout_s
            message = f"The body did not arrive in time: it was {behind_s:g} s behind {rate} bytes a second."
            self._refuse(RequestTimeout(message))
        elif self._parser.has_partial_head:
            self._refuse(RequestTimeout(f"The headers did not arrive within {self._limits.head_timeout_s:g} s."))
        else:
            self._socket.close()
