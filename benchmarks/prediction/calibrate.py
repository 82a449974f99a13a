"""Measures what a profile is fitted from, on real servers: requests of one shape at a time, alone and in company.

Its prompts, seeds and shapes are its own: no suite's requests are sent, so that every suite stays unseen.
"""

import itertools
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import httpx2

from benchmarks.prediction.recording import LEGO, MONOLITH, Group, Shape, trimmed
from loadgen.client import Sample
from loadgen.mixed.plan import Layout
from loadgen.progress import OnLine
from loadgen.server import Server
from loadgen.traffic import ClosedLoop, ImageRequest, pair_prompts

LOAD = "calibration"
SEED = 20_000
SIDES = (96, 128, 160, 192, 256)
STEPS = (6, 18)
GUIDANCE = (4.0, 1.0)
OUTSTANDING = (2, 6, 16)  # beside requests that are alone
WARM_UPS = 8
ASK_S = 30.0
ASKS, ASK_AGAIN_S = 20, 0.25
ROUNDED_S = 0.001  # as times of jobs are told


class Spied(Server, Protocol):
    """A server with an address, where its jobs can be asked for."""

    url: str


@dataclass(frozen=True, slots=True)
class CalibrationPlan:
    """The shapes of plain requests, how many of each, and requests with add-ons, each of which is sent twice."""

    shapes: tuple[Shape, ...]
    alone: int = 3
    rounds: int = 2  # of a closed loop: requests for each that is outstanding
    with_addons: tuple[ImageRequest, ...] = ()


def plan(*, quick: bool = False, with_addons: Sequence[ImageRequest] = ()) -> CalibrationPlan:
    """Return what is sent; ``quick`` for a first look, of fewer sizes, but with all that a fit needs to tell apart."""
    sides = SIDES[::2] if quick else SIDES
    shapes = tuple(Shape(side, side, n, g) for side, n, g in itertools.product(sides, STEPS, GUIDANCE))
    return CalibrationPlan(shapes, 2 if quick else 3, with_addons=tuple(with_addons))


def requests_of(shape: Shape, count: int, prompts: Iterator[str], seeds: Iterator[int]) -> list[ImageRequest]:
    """Return new requests of a shape."""
    return [
        ImageRequest(next(prompts), shape.width, shape.height, shape.steps, shape.guidance, next(seeds))
        for _ in range(count)
    ]


class Calibration:
    """One calibration: fresh prompts for both systems, and the groups so far."""

    def __init__(self, made: CalibrationPlan, on_line: OnLine) -> None:
        self._plan, self._on_line = made, on_line
        self._prompts = iter(pair_prompts(random.Random(f"{SEED}/prompts")))
        self._seeds = itertools.count(SEED)
        self.groups: list[Group] = []

    def lego(self, start: AbstractContextManager[Spied]) -> None:
        """Measure lego_serve: each shape alone, then the shapes with few steps in closed loops."""
        with start as server:
            self._warm_up(server)
            fewest = min(shape.steps for shape in self._plan.shapes)
            for shape in self._plan.shapes:
                self._lego_group(server, shape, 1, self._plan.alone)
                for outstanding in OUTSTANDING if shape.steps == fewest else ():
                    self._lego_group(server, shape, outstanding, self._plan.rounds * outstanding)
            for request in self._plan.with_addons:
                self._send(server, [request], 1)  # loads what it needs
                again = replace(request, prompt=next(self._prompts))
                self._keep(server, _shape(request), [again], 1)

    def baseline(self, start: AbstractContextManager[Server], layout: Layout) -> None:
        """Measure the baseline in a layout: each shape alone, and with every replica at work."""
        with start as server:
            self._warm_up(server)
            base = Group(LOAD, MONOLITH, self._plan.shapes[0], 1, (), (), layout.replicas, layout.threads)
            for shape, outstanding in itertools.product(self._plan.shapes, sorted({1, layout.replicas})):
                count = self._plan.alone * outstanding
                samples = self._send(server, self._fresh(shape, count), outstanding)
                self._add(replace(base, shape=shape, outstanding=outstanding), server, samples)
            for request in self._plan.with_addons:
                self._send(server, [request] * 4 * layout.replicas, layout.replicas)  # loads what it needs, everywhere
                samples = self._send(server, [replace(request, prompt=next(self._prompts))], 1)
                self._add(replace(base, shape=_shape(request)), server, samples)

    def _lego_group(self, server: Spied, shape: Shape, outstanding: int, count: int) -> None:
        self._keep(server, shape, self._fresh(shape, count), outstanding)

    def _keep(self, server: Spied, shape: Shape, requests: Sequence[ImageRequest], outstanding: int) -> None:
        since_s = time.time()
        samples = self._send(server, requests, outstanding)
        jobs = tuple(last_jobs(server.url, len(requests), since_s))
        self._add(Group(LOAD, LEGO, shape, outstanding, (), jobs), server, samples)

    def _add(self, group: Group, server: Server, samples: Sequence[Sample]) -> None:
        latency_s = tuple(round(sample.service_s, 6) for sample in samples if sample.is_ok)
        if len(latency_s) < len(samples):
            failed = next(sample.reply.error for sample in samples if not sample.is_ok)
            raise ValueError(
                f"{group.system} made {len(latency_s)} of {len(samples)} images of {group.shape}: {failed}"
            )
        self.groups.append(replace(group, latency_s=latency_s, ready_s=server.ready_s))
        shape = group.shape
        self._on_line(
            f"{group.system}: {shape.width}x{shape.height}, {shape.steps} steps, guidance {shape.guidance:g}, "
            f"{group.outstanding} outstanding: {sum(latency_s) / len(latency_s):.3f} s"
        )

    def _fresh(self, shape: Shape, count: int) -> list[ImageRequest]:
        return requests_of(shape, count, self._prompts, self._seeds)

    def _warm_up(self, server: Server) -> None:
        for shape in self._plan.shapes:
            self._send(server, self._fresh(shape, WARM_UPS // 2), 4)

    def _send(self, server: Server, requests: Sequence[ImageRequest], outstanding: int) -> list[Sample]:
        return server.run(requests, ClosedLoop(len(requests), outstanding), random.Random(SEED))


def _shape(request: ImageRequest) -> Shape:
    return Shape(request.width, request.height, request.steps, request.guidance, *request.addons)


def last_jobs(url: str, count: int, since_s: float) -> list[dict[str, Any]]:
    """Ask a server for the last jobs that ended, in the order of their begin, as far as is fitted from.

    Its list may be a moment late: it is asked again until so many are there that began after ``since_s``, in seconds of
    this machine's wall clock.  Raises ValueError where they never are.
    """
    query = {"state": "ended", "sort": "-created", "limit": str(count)}
    with httpx2.Client(base_url=url, timeout=ASK_S) as http:
        for _ in range(ASKS):
            listed = http.get("/v1/admin/requests", params=query).raise_for_status().json()["data"]
            new = [row["id"] for row in listed if row["created"] >= since_s - ROUNDED_S]
            if len(new) == count:
                found = [http.get(f"/v1/admin/requests/{name}").raise_for_status().json() for name in new]
                return sorted((trimmed(job) for job in found), key=lambda job: float(job["created"]))
            time.sleep(ASK_AGAIN_S)
    raise ValueError(f"{url} lists no {count} new jobs that have ended after {ASKS} questions; is its dashboard off?")
