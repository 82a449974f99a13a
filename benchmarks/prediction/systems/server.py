"""A simulated server in the place of a real one: the load generator's own client side, over a virtual clock.

Suites are run by the very code that runs them against real servers; only what answers is a model.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Protocol

from lego_serve.sim.engine import Engine
from loadgen.client import Deadline, Reply, Sample
from loadgen.traffic import Arrivals, ClosedLoop, ImageRequest

Answer = Callable[[Reply], None]
IMAGE = Reply(b"")  # an image was made; nobody looks at it


class Machine(Protocol):
    """The model of a server."""

    def arrive(self, request: ImageRequest, deadline_s: float | None, answer: Answer) -> None:
        """Take a request; ``deadline_s`` are the seconds that it may take, as its client says."""
        ...


class SimulatedServer:
    """Sends requests to a machine when they are due and times its answers; the clock goes on over several runs."""

    dtype = "simulated"

    def __init__(self, engine: Engine, machine: Machine, ready_s: float) -> None:
        self._engine, self._machine, self.ready_s = engine, machine, ready_s

    def __enter__(self) -> "SimulatedServer":
        self._engine.now += self.ready_s
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def memory_bytes(self) -> int:
        """Return nothing: memory is not simulated."""
        return 0

    def run(
        self,
        requests: Sequence[ImageRequest],
        arrivals: Arrivals,
        rng: random.Random,
        deadline_s: Deadline | None = None,
    ) -> list[Sample]:
        """Send the requests as the arrivals say and return when all are answered."""
        return _Run(self._engine, self._machine, requests, deadline_s).samples(arrivals, rng)


class _Run:
    """One run: who has been sent and who has answered."""

    def __init__(
        self, engine: Engine, machine: Machine, requests: Sequence[ImageRequest], deadline_s: Deadline | None
    ) -> None:
        self._engine, self._machine, self._deadline_s = engine, machine, deadline_s
        self._requests, self._start_s = requests, engine.now
        self._samples: dict[int, Sample] = {}
        self._left: Iterator[int] = iter(())  # of a closed loop: those that wait for a slot

    def samples(self, arrivals: Arrivals, rng: random.Random) -> list[Sample]:
        if isinstance(arrivals, ClosedLoop):
            self._left = iter(range(len(self._requests)))
            for number in list(itertools.islice(self._left, arrivals.outstanding)):
                self._send(number)
        else:
            for number, due_s in enumerate(arrivals.times_s(rng)):
                self._engine.at(self._start_s + due_s, self._send, number)
        self._engine.run()
        samples = [self._samples[number] for number in range(len(self._requests))]
        # What is left to happen after the last answer, such as deadlines of answered jobs, takes no client's time.
        self._engine.now = self._start_s + max((each.done_s for each in samples), default=0.0)
        return samples

    def _send(self, number: int) -> None:
        request, due_s = self._requests[number], self._engine.now - self._start_s
        deadline_s = None if self._deadline_s is None else self._deadline_s(request)

        def answer(reply: Reply) -> None:
            self._samples[number] = Sample(due_s, due_s, self._engine.now - self._start_s, reply)
            following = next(self._left, None)
            if following is not None:
                self._send(following)

        self._machine.arrive(request, deadline_s, answer)
