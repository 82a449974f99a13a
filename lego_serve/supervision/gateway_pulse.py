"""Asks the gateways of this machine on their own sockets whether they live, and never waits for an answer.

A process that is stopped or wedged is there for ``poll``, and the kernel goes on giving it connections.
"""

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lego_serve.core.silences import Silences

QUESTION = b"GET /health/live HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n"
ANSWER_BYTES = 4096


class GatewayPulse:
    """The questions that are out; ``folder`` has the gateways' sockets, named by their process ids.

    A gateway without a socket that listens owes nothing: it is not on the shared port yet, or not any more.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._silences = Silences()
        self._out: dict[int, socket.socket] = {}

    def hung(self, pids: Sequence[int]) -> list[int]:
        """Hear who has answered, ask who is to be asked, and return those of these processes that hang."""
        now = self._clock()
        for pid, connection in list(self._out.items()):
            if pid not in pids or _has_answered(connection):
                del self._out[pid]
                connection.close()
                if pid in pids:
                    self._silences.answered(pid, now)
        hung = self._silences.look(pids, now)
        for pid in self._silences.due(now):
            if pid not in self._out:
                self._ask(pid)
        return hung

    def close(self) -> None:
        """Ask no more."""
        while self._out:
            self._out.popitem()[1].close()

    def _ask(self, pid: int) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(str(self._folder / f"{pid}.sock"))
            connection.send(QUESTION)
        except BlockingIOError:  # no more may wait to be accepted: it owes an answer, and is asked again
            connection.close()
            self._silences.asked(pid)
        except OSError:  # nobody listens
            connection.close()
            self._silences.absent(pid)
        else:
            self._out[pid] = connection
            self._silences.asked(pid)


def _has_answered(connection: socket.socket) -> bool:
    """Whether a gateway has sent something, or closed the connection, which takes one that runs as well."""
    try:
        connection.recv(ANSWER_BYTES)
    except BlockingIOError:
        return False
    except OSError:  # reset
        return True
    return True
