"""Trials before the rounds: layouts of the baseline, backbones of lego, solo times, torch.compile."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from loadgen.children import ChildError
from loadgen.mixed.bench import Bench, run_closed, run_one_by_one, warm_up
from loadgen.mixed.objective import Objective, fit
from loadgen.mixed.plan import Layout
from loadgen.mixed.workload import CLOSED, FIRST_PROBE, RATED
from loadgen.server import Server
from loadgen.stats import median
from loadgen.summary import NoImagesError, throughput_rps
from loadgen.traffic import ClosedLoop, ImageRequest

BASELINE_TRIAL, LEGO_TRIAL, COMPILED_TRIAL = CLOSED, RATED, FIRST_PROBE  # phases of round 0, before the rounds
PLAIN_REPEATS = 5


@dataclass(frozen=True, slots=True)
class CompileTrial:
    """The figures of the baseline under torch.compile, or the reason why there are none."""

    solo_ratio: float | None  # median over the grid of its solo seconds over the eager ones
    throughput_rps: float | None
    warm_up_s: float | None
    reason: str | None


def try_layouts(bench: Bench, plain_s: dict[Layout, float]) -> dict[Layout, float]:
    """Return the baseline's closed throughput in each layout; which is best depends on the machine and the model.

    With a storage, each layout is tried under one as slow as goes with its plain solo time, which ``plain_s`` gets.
    """
    throughputs = {}
    for layout in bench.suite.layouts:
        if bench.storage is not None:
            bench.storage.set(0.0)
        with bench.systems.baseline(layout, False) as server:
            warm_up(bench, server, 0, bench.effort.warm_ups)
            if bench.storage is not None:
                plain_s[layout] = _plain_s(server, bench.storage.plain_request)
                bench.storage.set(plain_s[layout])
                bench.on_line(f"trial: baseline with {layout.name}, {plain_s[layout]:.3f} s a plain image alone")
            throughputs[layout] = _trial_rps(bench, server, BASELINE_TRIAL)
        bench.on_line(f"trial: baseline with {layout.name}, {throughputs[layout]:.2f} images a second")
    return throughputs


def try_backbones(bench: Bench) -> dict[int, float]:
    """Return lego's closed throughput with each number of backbone replicas."""
    throughputs = {}
    for count in bench.effort.lego_backbones:
        with bench.systems.lego(count) as server:
            warm_up(bench, server, 0, bench.effort.lego_warm_ups)
            throughputs[count] = _trial_rps(bench, server, LEGO_TRIAL)
        bench.on_line(f"trial: lego-serve with {count} backbone replica(s), {throughputs[count]:.2f} images a second")
    return throughputs


def measure_solo(bench: Bench, server: Server) -> Objective:
    """Time each kind of request alone on the warm baseline, and return the objective that follows."""
    grid = bench.workload.solo_grid()
    if bench.storage is not None:  # the objective is meant with the add-ons resident in every replica
        run_closed(bench, server, [grid[-1]] * bench.suite.outstanding)
    repeats = [run_one_by_one(server, grid) for _ in range(bench.effort.solo_repeats)]
    objective = fit(grid, repeats, bench.suite.slo_scale)
    times = [objective.solo_s(request) for request in grid]
    bench.on_line(f"baseline alone: {min(times):.2f} to {max(times):.2f} s an image")
    return objective


def try_compiled(bench: Bench, layout: Layout, objective: Objective) -> CompileTrial | None:
    """Measure the compiled transformer within its time; None where the effort leaves it out."""
    if bench.effort.compiled_s is None:
        return None
    try:
        with bench.systems.baseline(layout, True) as server:
            trial = _measure_compiled(bench, server, layout, objective, bench.effort.compiled_s)
    except (ChildError, NoImagesError) as error:
        trial = CompileTrial(None, None, None, reason=str(error)[-500:])
    result = trial.reason or f"{trial.solo_ratio:.2f} times the eager time alone, {trial.throughput_rps:.2f} a second"
    bench.on_line(f"baseline compiled: {result}")
    return trial


def _measure_compiled(
    bench: Bench, server: Server, layout: Layout, objective: Objective, limit_s: float
) -> CompileTrial:
    grid, begun = bench.workload.solo_grid(), bench.clock()
    kinds = [request for request in grid if request.steps == bench.suite.fewest_steps]
    one_per_replica = ClosedLoop(layout.replicas, layout.replicas)  # so that each replica compiles
    for index, request in enumerate(kinds):
        throughput_rps(server.run([request] * layout.replicas, one_per_replica, random.Random(0)))
        if (spent := bench.clock() - begun) > limit_s:
            reason = f"after {spent:.0f} s of compiling only {index + 1} of {len(kinds)} kinds of requests were warm"
            return CompileTrial(None, None, None, reason)
    warm_up_s = bench.clock() - begun
    alone = run_one_by_one(server, grid)
    ratios = [s.service_s / objective.solo_s(r) for r, s in zip(grid, alone, strict=True) if s.is_ok]
    return CompileTrial(median(ratios), _trial_rps(bench, server, COMPILED_TRIAL), warm_up_s, reason=None)


def _trial_rps(bench: Bench, server: Server, phase: int) -> float:
    """Return the closed throughput of a trial's phase."""
    requests = bench.workload.requests(0, phase, bench.effort.trial_requests)
    return throughput_rps(run_closed(bench, server, requests).samples)


def _plain_s(server: Server, request: ImageRequest) -> float:
    return median([sample.service_s for sample in run_one_by_one(server, [request] * PLAIN_REPEATS)])


def best_layout(throughputs: Mapping[Layout, float]) -> Layout:
    """Return the layout with the highest throughput."""
    return max(throughputs, key=lambda layout: throughputs[layout])
