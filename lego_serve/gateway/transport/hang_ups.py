"""Tells a client that has left from one that has only ended its sending side.

TCP says the same of both: a FIN.  The two differ in what comes back when something is sent to them: a client that has
left resets the connection, one that waits reads on.  What may be sent at any time before an answer is ``100
Continue``, which every HTTP/1.1 client has to pass over, and between two server-sent events an empty comment.
"""

import asyncio
import select
from collections.abc import Callable

LOOK_S = 0.1  # between two looks for a reset
ASK_S = 5.0  # between two signs of life that are asked for


class HangUpProbe:
    """Watches a connection whose client sends no more, until its requests are answered or the client proves gone."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, ask: Callable[[], None]) -> None:
        self._transport, self._loop, self._ask = transport, loop, ask
        self._ask_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, grace_s: float) -> None:
        """Watch; the client is left alone for ``grace_s``, in which most answers are given."""
        self._ask_at = self._loop.time() + grace_s
        self._look()

    def stop(self) -> None:
        """Stop to watch."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        if self._transport.is_closing():
            return
        if _is_reset(self._transport):
            self._transport.abort()
            return
        if self._loop.time() >= self._ask_at:
            self._ask_at = self._loop.time() + ASK_S
            self._ask()
        self._timer = self._loop.call_later(LOOK_S, self._look)


def _is_reset(transport: asyncio.Transport) -> bool:
    """Whether the system knows that nobody reads any more; the event loop does not look where it has read a FIN."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))
