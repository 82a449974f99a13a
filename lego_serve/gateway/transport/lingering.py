"""A transport that closes so that its last answer arrives, and that never waits for a client for ever."""

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from typing import Any

from lego_serve.gateway.transport.limits import ConnectionLimits

CHECKS = 8  # in ``write_timeout_s``, of whether a client reads


class LingeringTransport(asyncio.Transport):
    """Wraps a transport: a client that is still sending is heard a while after its answer, a slow one ends.

    A socket that is closed with unread bytes sends a reset, which takes the answer from the client's hands.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        limits: ConnectionLimits,
        is_client_sending: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._transport, self._loop, self._limits = transport, loop, limits
        self._is_client_sending = is_client_sending
        self._is_lingering = False
        self._dropped = 0
        self._written = 0
        self._taken, self._write_deadline = 0, 0.0
        self._stall_check: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Close when everything is written, or when the client has read nothing for too long."""
        if self._is_client_sending():
            self.linger()
        elif not self.is_closing():
            self._transport.close()
            self.watch_writes()

    def linger(self) -> None:
        """End our side now, and the connection when the client does, or after a while."""
        if self.is_closing():
            return
        self._is_lingering = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()
        self._end = self._loop.call_later(self._limits.linger_s, self._finish)
        self.watch_writes()

    def drop(self, data: bytes) -> None:
        """Count what arrives after the last answer, and stop to read where that is too much."""
        self._dropped += len(data)
        if self._dropped > self._limits.linger_bytes:
            self._transport.pause_reading()

    def watch_writes(self) -> None:
        """Abort the connection if the client falls behind the rate at which an answer must be read, while one waits."""
        if self._stall_check is None:
            self._taken, self._write_deadline = self._taken_so_far(), self._loop.time() + self._limits.write_timeout_s
            self._check_later()

    def rest_writes(self) -> None:
        """Watch no more, since there is little to be read: what there is, is as late as who writes it."""
        if self._stall_check is not None and not self.is_closing():
            self._stall_check.cancel()
            self._stall_check = None

    def forget(self) -> None:
        """Stop to watch; the connection has ended."""
        for timer in (self._stall_check, self._end):
            if timer is not None:
                timer.cancel()

    def _finish(self) -> None:
        if self.get_write_buffer_size():
            self._end = self._loop.call_later(self._limits.linger_s, self._finish)
        else:
            self._transport.abort()

    def _check_later(self) -> None:
        self._stall_check = self._loop.call_later(self._limits.write_timeout_s / CHECKS, self._abort_if_stalled)

    def _abort_if_stalled(self) -> None:
        self._stall_check = None
        if not self.get_write_buffer_size():
            return
        before, self._taken, now = self._taken, self._taken_so_far(), self._loop.time()
        self._write_deadline = self._limits.write_deadline(self._write_deadline, now, self._taken - before)
        if now < self._write_deadline:
            self._check_later()
        else:
            self._transport.abort()

    def _taken_so_far(self) -> int:
        """How many bytes the client's system has taken: of what is written, what waits neither here nor in ours."""
        return self._written - self.get_write_buffer_size() - _unsent(self.get_extra_info("socket"))

    def is_closing(self) -> bool:
        """Whether nothing more is to be written."""
        return self._is_lingering or self._transport.is_closing()

    @property
    def is_lingering(self) -> bool:
        """Whether the last answer is given and the client may still be sending."""
        return self._is_lingering

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write, unless the last answer is given."""
        if not self._is_lingering:
            self._written += len(data)
            self._transport.write(data)

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def pause_reading(self) -> None:
        """Stop to read, unless that is all that is left to do."""
        if not self._is_lingering:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        if not self._is_lingering:
            self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the system has not taken yet."""
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return a fact about the connection."""
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the connection to another protocol."""
        self._transport.set_protocol(protocol)


def _unsent(connection: socket.socket | None) -> int:
    """How many bytes the other side has not acknowledged; it holds megabytes, and asks for more late."""
    if connection is None:  # of a transport that is no socket's
        return 0
    try:
        unsent: int = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    except (OSError, ValueError):  # it is closed
        return 0
    return unsent
