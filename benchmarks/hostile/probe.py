"""Asks a gateway for something small again and again while it is attacked, and remembers the longest wait."""

import http.client
import itertools
import threading
import time
from collections.abc import Callable

from benchmarks.hostile.payloads import GENERATIONS
from benchmarks.hostile.wire import Address

EVERY_S = 0.02
TIMEOUT_S = 600.0
Ask = Callable[[http.client.HTTPConnection, int], None]


def ask_health(connection: http.client.HTTPConnection, _number: int) -> None:
    """Ask whether the process lives.  Raises OSError or HTTPException where there is no good answer."""
    connection.request("GET", "/health/live")
    _read(connection)


def ask_generation(connection: http.client.HTTPConnection, number: int) -> None:
    """Ask for one small image.  Raises OSError or HTTPException where there is no good answer."""
    body = f'{{"prompt":"a blue square {number}","size":"96x96","num_inference_steps":2}}'
    connection.request("POST", GENERATIONS, body, {"Content-Type": "application/json"})
    _read(connection)


def is_alive(address: Address, timeout_s: float) -> bool:
    """Whether a gateway answers within so many seconds."""
    connection = http.client.HTTPConnection(*address, timeout=timeout_s)
    try:
        ask_health(connection, 0)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


class Probe:
    """A thread that asks on a connection which it keeps, from the start to ``stop``."""

    def __init__(self, address: Address, ask: Ask) -> None:
        self.longest_s, self.failed = 0.0, 0
        self._address, self._ask = address, ask
        self._asked_s: float | None = None
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)  # it may hang on a gateway that does
        self._thread.start()

    def stop(self) -> None:
        """Stop asking; a request that still waits has waited until now."""
        self._is_stopped.set()
        asked_s = self._asked_s
        if asked_s is not None:
            self.longest_s = max(self.longest_s, time.monotonic() - asked_s)

    def _run(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_S)
        for number in itertools.count():
            if self._is_stopped.wait(EVERY_S):
                break
            self._asked_s = asked_s = time.monotonic()
            try:
                self._ask(connection, number)
            except (OSError, http.client.HTTPException):
                connection.close()  # the next request opens another
                self.failed += 0 if self._is_stopped.is_set() else 1
            self._asked_s = None
            if not self._is_stopped.is_set():
                self.longest_s = max(self.longest_s, time.monotonic() - asked_s)
        connection.close()


def _read(connection: http.client.HTTPConnection) -> None:
    answer = connection.getresponse()
    answer.read()
    if answer.status != http.client.OK:
        raise http.client.HTTPException(f"status {answer.status}")
