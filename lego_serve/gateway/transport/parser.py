"""Parses requests within limits: h11, and what it leaves to its user."""

import re
from typing import Any
from urllib.parse import urlsplit

import h11
from h11._readers import READERS, ContentLengthReader
from h11._writers import WRITERS

from lego_serve.errors import RequestError
from lego_serve.gateway.transport.limits import ConnectionLimits
from lego_serve.gateway.transport.ordinary import OrdinaryHead, ordinary_head

OUR_STATUSES = (501,)  # that h11 proposes and that say more than 400; its 431 may be about a line of a chunk
FIELD_OVERHEAD = 4  # the colon, the space and the line's end of a header
HEAD_END = re.compile(rb"\n\r?\n")  # as h11 finds it
# What h11 reads all the same, and some proxies in another way: a line that ends without CR, or goes on in the next one.
LOOSE_LINE = re.compile(rb"(?<!\r)\n|\n[ \t]")
LIST_OF_LENGTHS = re.compile(rb"\ncontent-length:[^\n]*,")
READ_HEAD: Any = READERS[h11.CLIENT, h11.IDLE]
READ_NOTHING: Any = READERS[h11.CLIENT, h11.DONE]
WRITE_ANSWER: Any = WRITERS[h11.SERVER, h11.SEND_RESPONSE]
FREE_CHUNKS, CHUNK_BYTES = 4096, 256  # chunks of any size, and what further ones must have on average


class Refused(h11.RemoteProtocolError):
    """A request that h11 takes and we do not."""


class RequestParser(h11.Connection):
    """The server's side of one connection, within the limits of a head.

    ``refusal`` is what to answer after ``next_event`` has raised; ``body_bytes`` and ``requests`` count the body
    under way and the requests so far; ``is_streaming_events`` is whether the last answer is one of server-sent events.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__(h11.SERVER, limits.head_bytes)
        self._limits = limits
        self.refusal = _refusal(400, limits)
        self.body_bytes = 0
        self.requests = 0
        self._chunks = 0
        self._searched = 0  # bytes of the buffer in which a head does not end
        self.is_streaming_events = False

    @property
    def has_partial_head(self) -> bool:
        """Whether a request has begun to arrive, and its head is not complete."""
        return self.their_state is h11.IDLE and bool(self._receive_buffer)

    def take_ordinary(self, data: bytes) -> OrdinaryHead | None:
        """Read an ordinary request that bytes begin with as h11 would, where it is this connection's turn.

        The body counts as read where all of it follows, and nothing else; what there is of it must be received else.
        """
        states = self._cstate.states
        if states[h11.CLIENT] is not h11.IDLE or states[h11.SERVER] is not h11.IDLE or self._receive_buffer._data:
            return None
        head = ordinary_head(data, self._limits)
        if head is None or len(data) > head.size + head.body_bytes:
            return None
        is_whole = len(data) == head.size + head.body_bytes
        self.requests += 1
        self.body_bytes, self._chunks = head.body_bytes if is_whole else 0, 0
        self._request_method, self.their_http_version = head.method, b"1.1"
        states[h11.CLIENT], states[h11.SERVER] = h11.DONE if is_whole else h11.SEND_BODY, h11.SEND_RESPONSE
        self._reader = READ_NOTHING if is_whole else ContentLengthReader(head.body_bytes)
        self._writer = WRITE_ANSWER
        return head

    @property
    def awaits_answer(self) -> bool:
        """Whether a request is whole and not answered, and another may follow it."""
        states = self._cstate.states
        return states[h11.CLIENT] is h11.DONE and states[h11.SERVER] is h11.SEND_RESPONSE

    def note_answer(self) -> None:
        """Take what ``awaits_answer`` waited for as sent whole."""
        self.is_streaming_events = False
        self._cstate.states[h11.SERVER] = h11.DONE
        self._writer = None

    def start_next_cycle(self) -> None:
        """Expect the next request.  Raises LocalProtocolError where this one is not done."""
        states = self._cstate.states
        if states[h11.CLIENT] is not h11.DONE or states[h11.SERVER] is not h11.DONE:
            super().start_next_cycle()  # says why not
        states[h11.CLIENT] = states[h11.SERVER] = h11.IDLE
        self._request_method = None
        self._reader, self._writer = READ_HEAD, WRITE_ANSWER

    @property
    def has_unread(self) -> bool:
        """Whether bytes have come that no event has told of."""
        return bool(self._receive_buffer._data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event.  Raises RemoteProtocolError, and says in ``refusal`` what to answer."""
        is_head = self.their_state is h11.IDLE
        if is_head and self._receive_buffer._data.startswith(b"\r\n"):  # that some clients send after a body
            self._receive_buffer.maybe_extract_at_most(2)
            self._searched = 0
        try:
            if is_head:
                self._check_lines()
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._searched = 0
                self.requests += 1
                self.body_bytes = self._chunks = 0
                self._check(event)
                return _origin_form(event)
            if isinstance(event, h11.Data):
                self.body_bytes += len(event.data)
                self._chunks += event.chunk_start
                if self._chunks > FREE_CHUNKS + self.body_bytes // CHUNK_BYTES:  # each costs as much as a large one
                    raise Refused("chunks", error_status_hint=400)
        except Refused as error:
            self.refusal = _refusal(error.error_status_hint, self._limits)
            raise
        except h11.RemoteProtocolError as error:
            self.refusal = _refusal(self._status(error.error_status_hint, is_head=is_head), self._limits)
            raise
        return event

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        """Return the bytes of an event that is to be sent."""
        if isinstance(event, h11.Response):
            media = next((value for name, value in event.headers if name == b"content-type"), b"")
            self.is_streaming_events = media.startswith(b"text/event-stream")
        return super().send_with_data_passthrough(event)

    def _status(self, proposed: int, *, is_head: bool) -> int:
        if proposed == 431 and is_head:
            return 431 if b"\n" in self.trailing_data[0] else 414
        return proposed if proposed in OUR_STATUSES else 400

    def _check_lines(self) -> None:
        """Refuse a head, once it is whole, that a proxy before us may have taken for another, or for two."""
        data = self._receive_buffer._data
        end = HEAD_END.search(data, max(0, self._searched - 2))
        self._searched = len(data)
        if end is None:
            return
        head = data[: end.end()].lower()
        lengths = head.count(b"\ncontent-length:")
        if LOOSE_LINE.search(head) or lengths > 1 or (lengths and LIST_OF_LENGTHS.search(head)):
            raise Refused("lines", error_status_hint=400)

    def _check(self, request: h11.Request) -> None:
        names = [name for name, _ in request.headers]
        size = sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in request.headers)
        if len(request.target) > self._limits.target_bytes:
            raise Refused("target", error_status_hint=414)
        if len(names) > self._limits.headers or len(request.target) + size > self._limits.head_bytes:
            raise Refused("head", error_status_hint=431)
        if request.http_version not in (b"1.0", b"1.1"):
            raise Refused("version", error_status_hint=505)
        # A proxy before us may take the other one of the two for the body's end, and HTTP/1.0 knows no chunks.
        if b"transfer-encoding" in names and (b"content-length" in names or request.http_version == b"1.0"):
            raise Refused("framing", error_status_hint=400)


def _origin_form(request: h11.Request) -> h11.Request:
    """Return a request whose target is a path; clients send a whole URL to what they take for a proxy."""
    if not request.target.lower().startswith((b"http://", b"https://")):
        return request
    try:
        url = urlsplit(request.target)
    except ValueError:
        raise Refused("target", error_status_hint=400) from None
    headers = [(name, value) for name, value in request.headers if name != b"host"]
    target = (url.path or b"/") + (b"?" + url.query if url.query else b"")
    return h11.Request(
        method=request.method,
        target=target,
        headers=[(b"host", url.netloc), *headers],
        http_version=request.http_version,
    )


def _refusal(status: int, limits: ConnectionLimits) -> RequestError:
    head = f"Headers of over {limits.head_bytes} bytes or {limits.headers} lines"
    message, code = {
        414: (f"The request's target is longer than {limits.target_bytes} bytes.", "uri_too_long"),
        431: (f"{head} are not taken.", "headers_too_large"),
        501: ("A body's only transfer encoding can be `chunked`.", "unsupported_transfer_encoding"),
        505: ("The server speaks HTTP/1.1.", "http_version_not_supported"),
    }.get(status, ("The request cannot be read as HTTP/1.1.", "bad_request"))
    error = RequestError(message, code=code)
    error.status = status
    return error
