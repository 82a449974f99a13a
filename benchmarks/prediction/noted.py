"""Notes what open loops send to a server, for the digest of a plan is made from what was sent."""

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from loadgen.client import Deadline, Sample
from loadgen.goodput.run import MeasuredServer
from loadgen.traffic import Arrivals, ClosedLoop, ImageRequest


class NotedStart:
    """A server that keeps the requests of its open loops and when each was due."""

    def __init__(self, start: AbstractContextManager[MeasuredServer]) -> None:
        self._start = start
        self.open_runs: list[tuple[Sequence[ImageRequest], list[float]]] = []
        self.ready_s = 0.0

    def __enter__(self) -> "NotedStart":
        self._server = self._start.__enter__()
        self.ready_s = self._server.ready_s
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._start.__exit__(kind, error, trace)

    @property
    def dtype(self) -> str:
        """The dtype that the server reports."""
        return self._server.dtype

    def memory_bytes(self) -> int:
        """Return the bytes of main memory that all its processes take."""
        return self._server.memory_bytes()

    def run(
        self,
        requests: Sequence[ImageRequest],
        arrivals: Arrivals,
        rng: random.Random,
        deadline_s: Deadline | None = None,
    ) -> list[Sample]:
        """Send the requests, and note them."""
        samples = self._server.run(requests, arrivals, rng, deadline_s)
        if not isinstance(arrivals, ClosedLoop):
            self.open_runs.append((requests, [each.due_s for each in samples]))
        return samples
