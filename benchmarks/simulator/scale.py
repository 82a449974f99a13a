"""Many gateways and many GPUs: old reports, no dispatcher, and what deciding costs."""

import random
import resource
import time
from collections.abc import Callable
from dataclasses import replace

from benchmarks.simulator.loads import artifact, highest_rate, pattern, random_load
from benchmarks.simulator.tables import Kept, Result, verdict
from lego_serve.core.cluster.autoscaling import PoolBounds, Scaler, ScalerRule
from lego_serve.core.cluster.cell import Cell
from lego_serve.core.cluster.events import CallEnded, Decision, Offered, Run, WorkerJoined
from lego_serve.core.cluster.profiles import CostModel, Profile
from lego_serve.core.cluster.routing import CellView, Router
from lego_serve.core.cluster.state import Call, Job
from lego_serve.core.cluster.work import JobWork, WorkflowShape
from lego_serve.sim.policies.lego import Lego, LegoOptions
from lego_serve.sim.policies.names import lego_options, preloaded
from lego_serve.sim.run import simulate
from lego_serve.sim.statistics import mean_of
from lego_serve.sim.workload import poisson, requests_of


def gateways(kept: Kept, *, quick: bool) -> Result:
    """The highest rates with several gateways that hear of cells every few seconds."""
    setting = artifact()
    loads = {
        "trace 4.0": pattern(setting, "4.0"),
        "Poisson 11": random_load(setting, 11),
        "Poisson 12": random_load(setting, 12),
    }
    base = lego_options()
    cases = {
        "one gateway": base,
        "4 gateways, reports 2 s old, one cell": replace(base, gateways=4, stale_s=2.0),
        "8 gateways, reports 10 s old, one cell": replace(base, gateways=8, stale_s=10.0),
        "4 gateways, 2 s, two cells of four GPUs": replace(base, gateways=4, stale_s=2.0, cells=2),
        "4 gateways, 2 s, no dispatcher: two GPUs at random": replace(
            base, gateways=4, stale_s=2.0, cells=8, choices=2
        ),
    }

    def rate(options: LegoOptions, load: str) -> float:
        return highest_rate(setting, loads[load], lambda: Lego(options, preloaded(setting)), low=0.5)

    found = {
        name: {load: kept(f"gateways {name} {load}", rate, options, load) for load in loads}
        for name, options in cases.items()
    }
    one = found["one gateway"]
    ratios = {name: mean_of([rates[load] / one[load] for load in loads]) for name, rates in found.items()}
    names = list(cases)
    return Result(
        "Gateways with old reports",
        "Eight GPUs, SLO 2 times the latency alone; highest rate at 90 %. Gateways route and refuse by reports; the "
        "dispatcher of a cell, which is exact, admits and binds late. Without one each GPU is a cell of its own.",
        ["", *loads, "of one gateway"],
        [[name, *(f"{each:.2f}" for each in rates.values()), ratios[name]] for name, rates in found.items()],
        [
            verdict("four gateways over one", ratios[names[1]].mean, 0.95),
            verdict("without a dispatcher over one gateway", ratios[names[-1]].mean, 0.60),
        ],
    )


def speed(kept: Kept, *, quick: bool, slowness: float = 1.0) -> Result:
    """What a large simulation and single decisions cost; processor time, which a busy machine stretches.

    ``slowness``: how many times slower this core is than one that the targets are meant for, by which they are
    stretched.
    """
    gpus, count = (200, 4_000) if quick else (1000, 100_000)
    admission_us, moving_us, routing_us, tick_ms = (
        _admission_us(),
        _admission_us(is_burst=False),
        _routing_us(),
        _tick_ms(),
    )
    simulated_s, attained, mib = _large(gpus, count)  # last: what it leaves in memory slows the others
    return Result(
        "Speed",
        "Seconds of processor on one core of this machine.",
        ["", "measured", "target"],
        [
            [
                f"{gpus} GPUs in {_cells(gpus)} cells x {count} requests (95 % load, {attained:.1%} in time)",
                f"{simulated_s:.0f} s",
                "120 s",
            ],
            ["its memory", f"{mib:.0f} MiB", "2048 MiB"],
            ["an admission with 1,000 in flight on 64 workers", f"{admission_us:.0f} us", "200 us"],
            ["the same where a worker's call has ended since the last", f"{moving_us:.0f} us", "200 us"],
            ["a routing over 64 cells", f"{routing_us:.0f} us", "200 us"],
            ["a scaling tick, 200 pools and 2,000 workers", f"{tick_ms:.2f} ms", "10 ms"],
        ],
        [
            verdict("large simulation, s", simulated_s, slowness * (120.0 if not quick else 30.0), at_most=True),
            verdict("admission, us", admission_us, slowness * 200.0, at_most=True),
            verdict("admission after a call, us", moving_us, slowness * 200.0, at_most=True),
            verdict("routing, us", routing_us, slowness * 200.0, at_most=True),
            verdict("scaling tick, ms", tick_ms, slowness * 10.0, at_most=True),
        ],
    )


def _cells(gpus: int) -> int:
    return max(1, gpus // 62)


def _large(gpus: int, count: int) -> tuple[float, float, float]:
    setting = artifact(gpus)
    rng = random.Random(1)
    rate = 0.95 * gpus / 1.95
    requests = requests_of(poisson(rate, count, rng), setting.shares, setting.slo_s, rng)
    policy = Lego(replace(lego_options(), cells=_cells(gpus), stale_s=0.25), preloaded(setting))
    started = time.process_time()
    outcome = simulate(setting, requests, policy)
    used_s = time.process_time() - started
    return used_s, outcome.attainment, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _work() -> JobWork:
    costs = CostModel([Profile("m", 1.0, 1, ((1, 0.2), (2, 0.39)))])
    return JobWork(WorkflowShape("w", "m", 4, 2), costs)


def _admission_us(in_flight: int = 1000, workers: int = 64, *, is_burst: bool = True, offers: int = 200) -> float:
    """The median of offers to a cell that has so many jobs, each with another deadline.

    In a burst they come together; else a worker's call ends before each, a little later than was expected, so that
    nothing that the last one looked at is so any more.
    """
    work = _work()
    cell = Cell(work.costs)
    rng, now = random.Random(1), 0.0
    calls: list[Call] = []
    for number in range(workers):
        cell.handle(WorkerJoined(number, 10, frozenset("m")), 0.0)
    for number in range(in_flight):
        calls += _called(cell.handle(Offered(Job(number, work, 0.0, 60.0 + rng.random())), 0.0))
    taken = []
    for number in range(in_flight, in_flight + offers):
        if not is_burst:
            now += 0.001 + 0.001 * rng.random()
            calls += _called(cell.handle(CallEnded(calls.pop(0).id), now))
        offer = Offered(Job(number, work, now, now + 61.0))
        started = time.process_time_ns()
        cell.handle(offer, now)
        taken.append(time.process_time_ns() - started)
    return sorted(taken)[offers // 2] / 1000.0


def _called(decisions: list[Decision]) -> list[Call]:
    return [each.call for each in decisions if isinstance(each, Run)]


def _routing_us(cells: int = 64) -> float:
    router, work, rng = Router(cells), _work(), random.Random(1)
    for number in range(cells):
        router.report(number, CellView(62, rng.random() * 60.0, frozenset("m"), 0.0))
    return _median_us(lambda: router.route(work, 100.0, 0.5, rng), 500)


def _tick_ms(pools: int = 200, workers: int = 2000) -> float:
    names = [f"model-{number}" for number in range(pools)]
    scaler = Scaler(ScalerRule(up_delay_s=0.0, down_delay_s=0.0), {name: PoolBounds() for name in names}, workers)
    rng = random.Random(1)
    current = dict.fromkeys(names, workers // pools)
    for name in names:
        scaler.offered(name, rng.random() * 2000.0, 0.0)
    now = iter(range(1, 1000))
    return _median_us(lambda: scaler.decide(current, float(next(now))), 50) / 1000.0


def _median_us(call: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.process_time_ns()
        call()
        taken.append(time.process_time_ns() - started)
    return sorted(taken)[times // 2] / 1000.0
