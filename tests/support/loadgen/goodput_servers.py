"""Servers for suites of goodput that answer at once, in virtual seconds, and note what they were sent."""

import io
import random
from collections.abc import Sequence
from types import TracebackType

from PIL import Image

from loadgen.client import Deadline, Reply, Sample
from loadgen.goodput.workload import WorkflowRequest
from loadgen.traffic import Arrivals, ClosedLoop


def small_png() -> bytes:
    """A red image."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


class QueueServer:
    """Makes one image after the other in so many seconds; with ``drops`` it refuses what would miss its deadline."""

    ready_s = 1.5

    def __init__(self, log: list[str], name: str, image_s: float, *, drops: bool) -> None:
        self._log, self._name, self._image_s, self._drops = log, name, image_s, drops
        self.sent: list[WorkflowRequest] = []
        self._image = small_png()

    def __enter__(self) -> "QueueServer":
        self._log.append(self._name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.append(f"end {self._name}")

    def memory_bytes(self) -> int:
        """As much as it says."""
        return 1000 if self._drops else 4000

    def run(
        self,
        requests: Sequence[WorkflowRequest],
        arrivals: Arrivals,
        rng: random.Random,
        deadline_s: Deadline | None = None,
    ) -> list[Sample]:
        """Queue them, first come first served."""
        self.sent += requests
        closed = isinstance(arrivals, ClosedLoop)
        due = [0.0] * len(requests) if closed else arrivals.times_s(rng)
        samples, free_s = [], 0.0
        for request, at_s in zip(requests, due, strict=True):
            start_s = max(free_s, at_s)
            if self._drops and deadline_s is not None and start_s + self._image_s > at_s + deadline_s(request):
                samples.append(Sample(at_s, at_s, at_s + 0.01, Reply(None, "429: late", 429)))
                continue
            free_s = start_s + self._image_s
            sent_s = start_s if closed else at_s
            samples.append(Sample(at_s, sent_s, free_s, Reply(self._image)))
        return samples
