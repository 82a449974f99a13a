"""Runs a suite of goodput: the baseline and the server in turn, on the same cores, with the same requests and gaps."""

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from loadgen.client import Sample
from loadgen.goodput.plan import GoodputEffort, GoodputSuite
from loadgen.goodput.report import write_report
from loadgen.goodput.summarise import GoodputSide, alone_s, full_rate_rps, summarise
from loadgen.goodput.workload import WorkflowRequest, at_own_paths, endless_requests, with_popularity
from loadgen.machine import CORES, busy_share, describe_run, pin
from loadgen.mixed.plan import Layout
from loadgen.progress import OnLine
from loadgen.runs.arrivals import Gamma
from loadgen.server import Server
from loadgen.traffic import ClosedLoop

SEED = 0
LOOK_S = 2.0
WARM_UPS = 4


class MeasuredServer(Server, Protocol):
    """A running server whose memory can be told."""

    def memory_bytes(self) -> int:
        """Return the bytes of main memory that all its processes take."""
        ...


Start = AbstractContextManager[MeasuredServer]


@dataclass(frozen=True, slots=True)
class GoodputSystems:
    """How to start each system: the baseline in a layout, and lego."""

    baseline: Callable[[Layout], Start]
    lego: Callable[[], Start]


class GoodputBench:
    """One run of a suite."""

    def __init__(self, suite: GoodputSuite, effort: GoodputEffort, systems: GoodputSystems, on_line: OnLine) -> None:
        self._suite, self._effort, self._systems, self._on_line = suite, effort, systems, on_line
        self._fresh: Iterator[WorkflowRequest] = endless_requests(suite, SEED)
        self._rates: dict[Layout, float] = {}
        self._alone_s: dict[Layout, float] = {}

    def try_layouts(self) -> Layout:
        """Fill the baseline in each layout, and send it requests alone; return the layout that makes most."""
        for layout in self._suite.layouts:
            with self._systems.baseline(layout) as server:
                self._warm_up(server, is_baseline=True)
                alone = self._send(server, self._take(self._effort.alone), ClosedLoop(self._effort.alone, 1), "alone")
                count = self._effort.filling
                full = self._send(
                    server, self._spread(count, "filling"), ClosedLoop(count, self._suite.outstanding), "filling"
                )
            self._alone_s[layout], self._rates[layout] = alone_s(alone), full_rate_rps(full)
            self._on_line(
                f"baseline, {layout.name}: {self._rates[layout]:.2f} images a second when full, "
                f"{self._alone_s[layout]:.2f} s alone"
            )
        return max(self._rates, key=self._rates.__getitem__)

    def objective_of(self, layout: Layout) -> tuple[float, dict[float, float]]:
        """Return the seconds of a request alone on the baseline, and the rate of each load."""
        return self._alone_s[layout], {load: load * self._rates[layout] for load in self._suite.loads}

    def measure(self, layout: Layout, loads: Mapping[float, float], solo_s: float) -> tuple[GoodputSide, GoodputSide]:
        """Put every load on both systems in turn, in each round with the same requests at the same times."""
        baseline, lego = GoodputSide(f"monolith, {layout.name}"), GoodputSide("lego_serve")
        for number in range(self._effort.rounds):
            requests = {load: self._spread(self._effort.requests, f"{number}/{load}") for load in loads}
            with self._systems.baseline(layout) as server:
                self._loads(server, baseline, requests, loads, number, None)
            with self._systems.lego() as server:
                self._loads(server, lego, requests, loads, number, self._suite.slo_scale * solo_s)
        return baseline, lego

    def _loads(
        self,
        server: MeasuredServer,
        side: GoodputSide,
        requests: Mapping[float, Sequence[WorkflowRequest]],
        loads: Mapping[float, float],
        number: int,
        deadline_s: float | None,
    ) -> None:
        side.ready_s.append(server.ready_s)
        self._warm_up(server, is_baseline=deadline_s is None)
        for load, rate_rps in loads.items():
            arrivals = Gamma(len(requests[load]), rate_rps, self._suite.cv)
            sent = requests[load] if deadline_s is not None else at_own_paths(self._suite, requests[load])
            rng = random.Random(f"{SEED}/{number}/gaps")
            wait_s = None if deadline_s is None else lambda request, most_s=deadline_s: most_s
            samples = server.run(sent, arrivals, rng, wait_s)
            side.samples.setdefault(load, []).append(samples)
            made = sum(sample.is_ok for sample in samples)
            self._on_line(f"round {number + 1}, {side.name} at {rate_rps:.2f} a second: {made} of {len(sent)} images")
        side.memory_bytes.append(server.memory_bytes())

    def _warm_up(self, server: MeasuredServer, *, is_baseline: bool) -> None:
        """Send a few requests to every workflow."""
        for name in self._suite.workflows or ("",):
            few = [replace(each, workflow=name) for each in self._take(WARM_UPS)]
            self._send(server, few, ClosedLoop(WARM_UPS, 1), "warm", is_baseline=is_baseline)

    def _send(
        self,
        server: MeasuredServer,
        requests: Sequence[WorkflowRequest],
        arrivals: ClosedLoop,
        purpose: str,
        *,
        is_baseline: bool = True,
    ) -> list[Sample]:
        sent = at_own_paths(self._suite, requests) if is_baseline else requests
        return server.run(sent, arrivals, random.Random(f"{SEED}/{purpose}"))

    def _take(self, count: int) -> list[WorkflowRequest]:
        return list(itertools.islice(self._fresh, count))

    def _spread(self, count: int, purpose: str) -> list[WorkflowRequest]:
        return with_popularity(self._suite, self._take(count), random.Random(f"{SEED}/{purpose}/workflows"))


def compare_goodput(
    suite: GoodputSuite, systems: GoodputSystems, out: Path, *, quick: bool, on_line: OnLine
) -> dict[str, object]:
    """Run the suite, write ``summary.json`` and ``report.html`` into ``out``, and return the summary."""
    busy = busy_share(LOOK_S)
    context = describe_run(pin(CORES), quick=quick) | {"busy_before": round(busy, 2)}
    out.mkdir(parents=True, exist_ok=True)
    bench = GoodputBench(suite, suite.quick if quick else suite.full, systems, on_line)
    layout = bench.try_layouts()
    solo_s, loads = bench.objective_of(layout)
    sides = bench.measure(layout, loads, solo_s)
    document = summarise(suite, sides, loads, solo_s, SEED, context)
    (out / "summary.json").write_text(json.dumps(document, indent=2) + "\n")
    write_report(out / "report.html", suite, document)
    return document
