"""One run against a server: warm-up, the seconds alone that objectives are a multiple of, then the load."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import httpx2

from loadgen.client import Reply, Sample, drive, post
from loadgen.progress import OnLine
from loadgen.runs.outcome import Outcome, outcomes_of
from loadgen.runs.posting import Posted
from loadgen.stats import median
from loadgen.traces.record import SEEDS
from loadgen.traffic import Arrivals, ClosedLoop

REPORT_S = 15.0
WARM_UP = 7_919  # which take of a request warms up


class NotAnsweredError(Exception):
    """The server made no image where one is needed to go on; the message carries its answer."""


@dataclass(frozen=True, slots=True)
class Objectives:
    """How long a request may take: ``slo_ms``, or ``scale`` times its seconds alone; without either as its trace says.

    With ``is_sent`` the server is told, as ``deadline_ms``.
    """

    slo_ms: float | None = None
    scale: float | None = None
    is_sent: bool = False
    repeats: int = 3
    most_kinds: int = 40  # of requests that are timed alone

    @property
    def is_known(self) -> bool:
        """Whether every request has an objective, whatever its trace says."""
        return self.slo_ms is not None or self.scale is not None


class Session:
    """A server under test; remembers the seconds alone that it has measured."""

    def __init__(self, http: httpx2.AsyncClient, objectives: Objectives, on_line: OnLine) -> None:
        self._http, self._objectives, self._on_line = http, objectives, on_line
        self._solo_s: dict[tuple[object, ...], float] = {}
        self._answers = 0

    @property
    def solo_s(self) -> Mapping[tuple[object, ...], float]:
        """The seconds alone by kind of request."""
        return self._solo_s

    async def warm_up(self, requests: Sequence[Posted]) -> None:
        """Send requests one by one with other prompts and seeds, untimed.  Raises NotAnsweredError where none works."""
        if not requests:
            return
        samples = await self._drive([_again(each, WARM_UP) for each in requests], ClosedLoop(len(requests), 1))
        if not any(sample.is_ok for sample in samples):
            raise NotAnsweredError(f"no image in {len(samples)} requests of the warm-up: {samples[0].reply.error}")

    async def slo_s(self, requests: Sequence[Posted]) -> list[float | None]:
        """Return the objective of every request; times those alone that need it.

        Raises ValueError for more kinds than are worth timing, NotAnsweredError for one that is never answered.
        """
        needed = {}
        if self._objectives.scale is not None:
            needed = {r.cost_key: r for r in reversed(requests) if r.cost_key not in self._solo_s}
        if len(needed) > self._objectives.most_kinds:
            raise ValueError(
                f"{len(needed)} kinds of requests would have to be timed alone, more than"
                f" {self._objectives.most_kinds}: give an objective in milliseconds instead"
            )
        for key, request in needed.items():
            self._solo_s[key] = await self._time_alone(request)
            self._on_line(f"alone {self._solo_s[key]:.3f} s: {request.record.workflow} {request.size}")
        return [self._slo_of(request) for request in requests]

    async def run(self, requests: Sequence[Posted], arrivals: Arrivals, rng: random.Random) -> list[Outcome]:
        """Send the requests as the arrivals say and return what became of each."""
        slo_s = await self.slo_s(requests)
        if self._objectives.is_sent:
            requests = [_with_deadline(request, limit) for request, limit in zip(requests, slo_s, strict=True)]
        reports = asyncio.create_task(self._report(len(requests)))
        try:
            samples = await self._drive(requests, arrivals, rng)
        finally:
            reports.cancel()
        return outcomes_of(requests, samples, slo_s)

    async def _report(self, count: int) -> None:
        """Say now and then how far a long run is."""
        before, start = self._answers, asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(REPORT_S)
            seconds = asyncio.get_running_loop().time() - start
            self._on_line(f"after {seconds:.0f} s {self._answers - before} of {count} requests have ended")

    def _slo_of(self, request: Posted) -> float | None:
        if self._objectives.scale is not None:
            return self._objectives.scale * self._solo_s[request.cost_key]
        slo_ms = self._objectives.slo_ms or request.record.milliseconds("slo_ms")
        return None if slo_ms is None else slo_ms / 1000

    async def _time_alone(self, request: Posted) -> float:
        again = [_again(request, index + 1) for index in range(self._objectives.repeats)]
        samples = await self._drive(again, ClosedLoop(len(again), 1))
        answered = [sample.service_s for sample in samples if sample.is_ok]
        if not answered:
            raise NotAnsweredError(f"no image alone of {request.record.workflow}: {samples[0].reply.error}")
        return median(answered)

    async def _drive(
        self, requests: Sequence[Posted], arrivals: Arrivals, rng: random.Random | None = None
    ) -> list[Sample]:
        return await drive(self._send, requests, arrivals, rng or random.Random(0))

    async def _send(self, request: Posted) -> Reply:
        reply = await post(self._http, request.path, request.fields, request.files)
        self._answers += 1
        return reply if reply.image is None else replace(reply, image=b"")  # thousands of images would fill the memory


def _with_deadline(request: Posted, slo_s: float | None) -> Posted:
    """Return the request with its objective as the server's deadline; a form has it as text."""
    if slo_s is None:
        return request
    deadline_ms = max(1, round(1000 * slo_s))
    fields = {**request.fields, "deadline_ms": str(deadline_ms) if request.files else deadline_ms}
    return replace(request, fields=fields)


def _again(request: Posted, more: int) -> Posted:
    """Return the request with another seed and prompt, so that no cache answers for the one that is timed."""
    fields = dict(request.fields)
    seed, prompt = fields.get("seed"), fields.get("prompt")
    if isinstance(seed, int | str) and str(seed).isdigit():
        changed = (int(seed) + more) % SEEDS
        fields["seed"] = changed if isinstance(seed, int) else str(changed)
    if isinstance(prompt, str):
        fields["prompt"] = f"{prompt}, warming up {more}"
    return replace(request, fields=fields)
