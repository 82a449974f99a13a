"""The rounds of suite ``mixed``: each side, started anew, in a closed loop, at its limit, and at one common rate."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from loadgen.client import Deadline
from loadgen.mixed.objective import Attainment, Objective, Timed, attainment
from loadgen.mixed.plan import Layout
from loadgen.mixed.search import Search, search
from loadgen.mixed.sides import (
    Bench,
    Compiled,
    Server,
    Variant,
    best,
    closed,
    measure_solo,
    one_by_one,
    try_backbones,
    try_compiled,
    try_layouts,
    warm_up,
)
from loadgen.mixed.workload import ALONE, CLOSED, FIRST_PROBE, RATED
from loadgen.summary import NoImagesError, throughput_rps
from loadgen.traffic import ImageRequest, Poisson

FIRST_GUESS = 0.5  # of the closed throughput: small requests behind large ones miss their objectives long before 1
RATED_SHARE = 1.5  # of its plain time: the common rate's last answers come later than its last request
LOOPS_OF_VARIANT = 2  # each about as long as the common rate


@dataclass(frozen=True, slots=True)
class Loops:
    """The same requests, however they are asked: one after the other, in a closed loop, at the common rate."""

    alone: Timed
    closed: Timed
    rated: Timed


@dataclass(frozen=True, slots=True)
class SideRound:
    """One side in one round; ``variants`` are lego's own other ways, by name."""

    alone: Timed
    closed: Timed
    search: Search
    rated: Timed
    ready_s: float
    variants: Mapping[str, Loops] = field(default_factory=dict)


@dataclass(slots=True)
class Seen:
    """Everything measured so far."""

    objective: Objective
    layouts: dict[Layout, float]
    backbones: dict[int, float]
    compiled: Compiled | None = None
    dtype: str = ""
    rates_rps: list[float] = field(default_factory=list)
    baseline: list[SideRound] = field(default_factory=list)
    lego: list[SideRound] = field(default_factory=list)
    plain_s: dict[Layout, float] = field(default_factory=dict)  # by which the storage's time is set
    inspected: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Turn:
    """One side's turn in a round."""

    bench: Bench
    server: Server
    name: str
    round_number: int
    objective: Objective
    deadline_s: Deadline | None
    variants: Mapping[str, Variant] = field(default_factory=dict)

    def run(self, last: SideRound | None, rate_rps: Callable[[Search], float]) -> SideRound:
        """One by one, closed loop, search from where the last round ended, then the common rate."""
        alone, loop = self._alone(_as_it_is), self._closed(_as_it_is)
        rate = throughput_rps(loop.samples)
        found = self._search(last.search.highest_rps if last else 0.0, rate)
        self._tell(f"highest rate {found.highest_rps:.2f} a second")
        common = rate_rps(found)
        rated = self._rated(common, _as_it_is)
        variants = {name: self._loops(name, common, change) for name, change in self.variants.items()}
        return SideRound(alone, loop, found, rated, self.server.ready_s, variants)

    def _loops(self, name: str, rate_rps: float, change: Variant) -> Loops:
        self._tell(f"the same with {name}")
        return Loops(self._alone(change), self._closed(change), self._rated(rate_rps, change))

    def _alone(self, change: Variant) -> Timed:
        requests = [change(each) for each in self._requests(ALONE, self.bench.effort.alone_requests)]
        return Timed(requests, one_by_one(self.server, requests))

    def _closed(self, change: Variant) -> Timed:
        requests = [change(each) for each in self._requests(CLOSED, self.bench.effort.closed_requests)]
        loop = closed(self.bench, self.server, requests)
        rate = throughput_rps(loop.samples)
        self._tell(f"{rate:.2f} images a second with {self.bench.suite.outstanding} outstanding")
        return loop

    def _rated(self, rate_rps: float, change: Variant) -> Timed:
        rated = self._open_loop(RATED, rate_rps, self.bench.effort.rated_s, change)
        self._tell(f"at the common rate of {rate_rps:.2f} a second {self._say(self._reached(rated))}")
        return rated

    def _requests(self, phase: int, count: int) -> list[ImageRequest]:
        return self.bench.workload.requests(self.round_number, phase, count)

    def _search(self, last_rps: float, throughput_rps: float) -> Search:
        """From where the last round ended, in smaller steps; else from a share of the throughput."""
        effort = self.bench.effort
        later = 1 + LOOPS_OF_VARIANT * len(self.variants)
        budget_s = min(effort.search.budget_s, self.bench.left_s - RATED_SHARE * effort.rated_s * later)
        plan = replace(effort.search, budget_s=budget_s)
        if last_rps:
            return search(self._probe, last_rps, replace(plan, step=math.sqrt(plan.step)), self.bench.clock)
        return search(self._probe, FIRST_GUESS * throughput_rps, plan, self.bench.clock)

    def _open_loop(self, phase: int, rate_rps: float, seconds: float, change: Variant) -> Timed:
        """Requests at a rate for about so long; back when the last is answered, so that no queue is left."""
        count = max(self.bench.effort.fewest_requests, math.ceil(rate_rps * seconds))
        requests = [change(each) for each in self._requests(phase, count)]
        gaps = self.bench.workload.gaps(self.round_number, phase)
        return Timed(requests, self.server.run(requests, Poisson(count, rate_rps), gaps, self.deadline_s))

    def _probe(self, rate_rps: float, number: int) -> tuple[Attainment, bool]:
        reached = self._reached(self._open_loop(FIRST_PROBE + number, rate_rps, self.bench.effort.probe_s, _as_it_is))
        is_passed = reached.is_enough(self.bench.suite.attainment, self.bench.suite.class_attainment)
        self._tell(f"{rate_rps:.2f} a second: {self._say(reached)}, {'passed' if is_passed else 'not passed'}")
        return reached, is_passed

    def _reached(self, timed: Timed) -> Attainment:
        return attainment(timed, self.objective.slo_s, self.bench.suite)

    @staticmethod
    def _say(reached: Attainment) -> str:
        each = ", ".join(f"{name} {tally.ratio:.0%}" for name, tally in reached.classes.items())
        return f"{reached.ratio:.0%} in time ({each})"

    def _tell(self, line: str) -> None:
        self.bench.tell(f"round {self.round_number} of {self.bench.effort.rounds}: {self.name}: {line}")


def measure(bench: Bench) -> Seen:
    """Trials first, then rounds in which the sides take turns; both get the same requests."""
    seen = Seen(Objective(bench.suite.slo_scale, {}), {}, {})
    seen.layouts = try_layouts(bench, seen.plain_s)
    _slow_storage(bench, seen)
    seen.backbones = try_backbones(bench)
    round_s = 0.0
    for number in range(1, bench.effort.rounds + 1):
        if number > 1 and round_s > bench.left_s:
            bench.tell(f"round {number} is left out: {bench.left_s:.0f} s are left, the last took {round_s:.0f} s")
            break
        begun = bench.clock()
        _baseline_turn(bench, seen, number)
        if number == 1:
            seen.compiled = try_compiled(bench, best(seen.layouts), seen.objective)
        _lego_turn(bench, seen, number)
        round_s = bench.clock() - begun
    return seen


def _slow_storage(bench: Bench, seen: Seen) -> None:
    """The storage both sides load from in the rounds."""
    if bench.storage is not None:
        bench.storage.set(seen.plain_s[best(seen.layouts)])


def _baseline_turn(bench: Bench, seen: Seen, number: int) -> None:
    with bench.sides.baseline(best(seen.layouts), False) as server:
        if number == 1 and bench.storage is not None:  # alone and warm: nothing is loaded
            bench.storage.set(0.0)
        warm_up(bench, server, number, bench.effort.warm_ups)
        if number == 1:
            seen.dtype = server.dtype
            seen.objective = measure_solo(bench, server)
            _slow_storage(bench, seen)
        turn = _Turn(bench, server, "baseline", number, seen.objective, None)
        seen.baseline.append(turn.run(_last(seen.baseline), lambda found: _common_rate(bench, found)))
    seen.rates_rps.append(_common_rate(bench, seen.baseline[-1].search))


def _lego_turn(bench: Bench, seen: Seen, number: int) -> None:
    count = max(seen.backbones, key=lambda n: seen.backbones[n]) if seen.backbones else None
    deadline_s = seen.objective.slo_s if bench.suite.sends_deadline else None
    with bench.sides.lego(count) as server:
        warm_up(bench, server, number, bench.effort.lego_warm_ups)
        turn = _Turn(bench, server, "lego-serve", number, seen.objective, deadline_s, bench.variants)
        seen.lego.append(turn.run(_last(seen.lego), lambda _: seen.rates_rps[-1]))
        if bench.inspect is not None:
            seen.inspected = bench.inspect(server, seen.lego[-1].rated)


def _common_rate(bench: Bench, found: Search) -> float:
    """The rate at which latencies are compared; NoImagesError when the baseline met its objective at none."""
    if found.highest_rps == 0.0:
        raise NoImagesError(f"the baseline reached its objective at no rate down to {found.lowest_failed_rps:.2f}/s")
    return bench.suite.rate_factor * found.highest_rps


def _as_it_is(request: ImageRequest) -> ImageRequest:
    return request


def _last(rounds: list[SideRound]) -> SideRound | None:
    return rounds[-1] if rounds else None
