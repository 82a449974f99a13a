"""The rounds of suite ``mixed``: each system, started anew, in a closed loop, at its limit, and at a common rate."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from loadgen.client import Deadline
from loadgen.mixed.bench import Bench, Variant, run_closed, run_one_by_one, warm_up
from loadgen.mixed.objective import Attainment, Objective, TimedRun, attainment
from loadgen.mixed.plan import Layout
from loadgen.mixed.search import Search, search
from loadgen.mixed.trials import CompileTrial, best_layout, measure_solo, try_backbones, try_compiled, try_layouts
from loadgen.mixed.workload import ALONE, CLOSED, FIRST_PROBE, RATED
from loadgen.server import Server
from loadgen.summary import NoImagesError, throughput_rps
from loadgen.traffic import ImageRequest, Poisson

FIRST_GUESS = 0.5  # of the closed throughput: small requests behind large ones miss their objectives long before 1
RATED_SHARE = 1.5  # of its plain time: the common rate's last answers come later than its last request
LOOPS_OF_VARIANT = 2  # each about as long as the common rate


@dataclass(frozen=True, slots=True)
class VariantRound:
    """One variant in one round: its requests one after the other, in a closed loop, and at the common rate."""

    alone: TimedRun
    closed: TimedRun
    rated: TimedRun


@dataclass(frozen=True, slots=True)
class SystemRound:
    """One system in one round; ``variants`` are lego's own, by name."""

    alone: TimedRun
    closed: TimedRun
    search: Search
    rated: TimedRun
    ready_s: float
    variants: Mapping[str, VariantRound] = field(default_factory=dict)


@dataclass(slots=True)
class Measurements:
    """Everything measured so far."""

    objective: Objective
    layouts: dict[Layout, float]
    backbones: dict[int, float]
    compiled: CompileTrial | None = None
    dtype: str = ""
    rates_rps: list[float] = field(default_factory=list)
    baseline: list[SystemRound] = field(default_factory=list)
    lego: list[SystemRound] = field(default_factory=list)
    plain_s: dict[Layout, float] = field(default_factory=dict)  # sets the storage's load times
    inspected: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Turn:
    """One system's turn in a round."""

    bench: Bench
    server: Server
    name: str
    round_number: int
    objective: Objective
    deadline_s: Deadline | None
    variants: Mapping[str, Variant] = field(default_factory=dict)

    def run(self, last: SystemRound | None, rate_rps: Callable[[Search], float]) -> SystemRound:
        """Run one by one, the closed loop, the search from where the last round ended, then the common rate."""
        alone, closed = self._run_alone(_unchanged), self._run_closed(_unchanged)
        result = self._search(last.search.highest_rps if last else 0.0, throughput_rps(closed.samples))
        self._report(f"highest rate {result.highest_rps:.2f} a second")
        common_rps = rate_rps(result)
        rated = self._run_rated(common_rps, _unchanged)
        variants = {name: self._run_variant(name, common_rps, variant) for name, variant in self.variants.items()}
        return SystemRound(alone, closed, result, rated, self.server.ready_s, variants)

    def _run_variant(self, name: str, rate_rps: float, variant: Variant) -> VariantRound:
        self._report(f"the same with {name}")
        return VariantRound(self._run_alone(variant), self._run_closed(variant), self._run_rated(rate_rps, variant))

    def _run_alone(self, variant: Variant) -> TimedRun:
        requests = self._requests(ALONE, self.bench.effort.alone_requests, variant)
        return TimedRun(requests, run_one_by_one(self.server, requests))

    def _run_closed(self, variant: Variant) -> TimedRun:
        requests = self._requests(CLOSED, self.bench.effort.closed_requests, variant)
        closed = run_closed(self.bench, self.server, requests)
        rate = throughput_rps(closed.samples)
        self._report(f"{rate:.2f} images a second with {self.bench.suite.outstanding} outstanding")
        return closed

    def _run_rated(self, rate_rps: float, variant: Variant) -> TimedRun:
        rated = self._run_open(RATED, rate_rps, self.bench.effort.rated_s, variant)
        self._report(f"at the common rate of {rate_rps:.2f} a second {_in_words(self._attainment(rated))}")
        return rated

    def _requests(self, phase: int, count: int, variant: Variant) -> list[ImageRequest]:
        return [variant(request) for request in self.bench.workload.requests(self.round_number, phase, count)]

    def _search(self, last_rps: float, throughput_rps: float) -> Search:
        """Search from where the last round ended, in smaller steps; else from a share of the throughput."""
        effort = self.bench.effort
        later_loops = 1 + LOOPS_OF_VARIANT * len(self.variants)
        budget_s = min(effort.search.budget_s, self.bench.left_s - RATED_SHARE * effort.rated_s * later_loops)
        plan = replace(effort.search, budget_s=budget_s)
        if last_rps:
            return search(self._probe, last_rps, replace(plan, step=math.sqrt(plan.step)), self.bench.clock)
        return search(self._probe, FIRST_GUESS * throughput_rps, plan, self.bench.clock)

    def _run_open(self, phase: int, rate_rps: float, seconds: float, variant: Variant) -> TimedRun:
        """Send requests at a rate for about so long; returns when the last is answered, so that no queue is left."""
        count = max(self.bench.effort.fewest_requests, math.ceil(rate_rps * seconds))
        requests = self._requests(phase, count, variant)
        rng = self.bench.workload.arrival_rng(self.round_number, phase)
        return TimedRun(requests, self.server.run(requests, Poisson(count, rate_rps), rng, self.deadline_s))

    def _probe(self, rate_rps: float, number: int) -> tuple[Attainment, bool]:
        reached = self._attainment(
            self._run_open(FIRST_PROBE + number, rate_rps, self.bench.effort.probe_s, _unchanged)
        )
        is_passed = reached.is_enough(self.bench.suite.attainment, self.bench.suite.class_attainment)
        self._report(f"{rate_rps:.2f} a second: {_in_words(reached)}, {'passed' if is_passed else 'not passed'}")
        return reached, is_passed

    def _attainment(self, run: TimedRun) -> Attainment:
        return attainment(run, self.objective.slo_s, self.bench.suite)

    def _report(self, line: str) -> None:
        self.bench.on_line(f"round {self.round_number} of {self.bench.effort.rounds}: {self.name}: {line}")


def _in_words(reached: Attainment) -> str:
    classes = ", ".join(f"{name} {tally.ratio:.0%}" for name, tally in reached.classes.items())
    return f"{reached.ratio:.0%} in time ({classes})"


def measure(bench: Bench) -> Measurements:
    """Run the trials, then rounds in which the systems take turns; both get the same requests."""
    measured = Measurements(Objective(bench.suite.slo_scale, {}), {}, {})
    measured.layouts = try_layouts(bench, measured.plain_s)
    _slow_storage(bench, measured)
    measured.backbones = try_backbones(bench)
    round_s = 0.0
    for number in range(1, bench.effort.rounds + 1):
        if number > 1 and round_s > bench.left_s:
            bench.on_line(f"round {number} is left out: {bench.left_s:.0f} s are left, the last took {round_s:.0f} s")
            break
        begun = bench.clock()
        _baseline_turn(bench, measured, number)
        if number == 1:
            measured.compiled = try_compiled(bench, best_layout(measured.layouts), measured.objective)
        _lego_turn(bench, measured, number)
        round_s = bench.clock() - begun
    return measured


def _slow_storage(bench: Bench, measured: Measurements) -> None:
    """Make the storage that both systems load from as slow as the best layout's plain time asks for."""
    if bench.storage is not None:
        bench.storage.set(measured.plain_s[best_layout(measured.layouts)])


def _baseline_turn(bench: Bench, measured: Measurements, number: int) -> None:
    with bench.systems.baseline(best_layout(measured.layouts), False) as server:
        if number == 1 and bench.storage is not None:  # alone and warm: nothing is loaded
            bench.storage.set(0.0)
        warm_up(bench, server, number, bench.effort.warm_ups)
        if number == 1:
            measured.dtype = server.dtype
            measured.objective = measure_solo(bench, server)
            _slow_storage(bench, measured)
        turn = _Turn(bench, server, "baseline", number, measured.objective, deadline_s=None)
        measured.baseline.append(turn.run(_last(measured.baseline), lambda result: _common_rate(bench, result)))
    measured.rates_rps.append(_common_rate(bench, measured.baseline[-1].search))


def _lego_turn(bench: Bench, measured: Measurements, number: int) -> None:
    backbones = measured.backbones
    count = max(backbones, key=lambda n: backbones[n]) if backbones else None
    deadline_s = measured.objective.slo_s if bench.suite.sends_deadline else None
    with bench.systems.lego(count) as server:
        warm_up(bench, server, number, bench.effort.lego_warm_ups)
        turn = _Turn(bench, server, "lego-serve", number, measured.objective, deadline_s, bench.variants)
        measured.lego.append(turn.run(_last(measured.lego), lambda _: measured.rates_rps[-1]))
        if bench.inspect is not None:
            measured.inspected = bench.inspect(server, measured.lego[-1].rated)


def _common_rate(bench: Bench, result: Search) -> float:
    """Return the rate at which latencies are compared.

    Raises NoImagesError when the baseline met its objective at no rate.
    """
    if result.highest_rps == 0.0:
        raise NoImagesError(f"the baseline reached its objective at no rate down to {result.lowest_failed_rps:.2f}/s")
    return bench.suite.rate_factor * result.highest_rps


def _unchanged(request: ImageRequest) -> ImageRequest:
    return request


def _last(rounds: list[SystemRound]) -> SystemRound | None:
    return rounds[-1] if rounds else None
