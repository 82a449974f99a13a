"""The highest rate at 90 % on DiFlow's setting: against baselines and the bound, ablated, and with a worse world."""

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.simulator.loads import all_loads, artifact, attainment, highest_rate
from benchmarks.simulator.tables import Kept, Result, verdict
from lego_serve.core.cluster.profiles import CostModel
from lego_serve.sim.charts import Point, bars, lines
from lego_serve.sim.cluster import EXACT, Noise, Setting
from lego_serve.sim.policies.names import ABLATIONS
from lego_serve.sim.statistics import Estimate, mean_of
from lego_serve.sim.workload import retimed

STATIC = ("static", "static+drop", "packed", "packed+drop", "clockwork")
DIFLOW = ("diflow", "diflow-no-admission")
BOUNDS = ("bound batch 1", "bound pairs", "bound best batch")
GRID = (1.0, 2.0, 2.5, 3.0, 3.5, 4.0, 4.25, 4.5, 4.75, 5.0, 6.0, 8.0)
HOPS = {"hop_s": 0.004, "sync_s": 0.03, "move_s": 0.05}  # a step, a split step and a move on Ray; guessed

Rates = Mapping[str, float]


def table(kept: Kept, *, quick: bool, slo_scale: float = 2.0) -> Result:
    """The highest rates of all policies."""
    setting = artifact(slo_scale=slo_scale)
    names = (*STATIC, *DIFLOW, "lego", *BOUNDS)
    found = {name: _rates(kept, setting, name, quick=quick, key=f"slo {slo_scale}") for name in names}
    bound, lego = found["bound best batch"], found["lego"]
    rows = []
    for name in names:
        mean = mean_of(list(found[name].values()))
        rows.append([name, *(f"{each:.2f}" for each in found[name].values()), mean, _ratio(found[name], bound)])
    verdicts = [f"lego over {name}: {_ratio(lego, found[name])}" for name in (*STATIC, *DIFLOW)]
    if slo_scale == 2.0:
        verdicts += [
            verdict("lego over diflow as shipped", _ratio(lego, found["diflow"]).mean, 1.30),
            verdict("lego over diflow without admission, its better mode", _ratio(lego, found[DIFLOW[1]]).mean, 1.25),
            verdict("lego over static+drop", _ratio(lego, found["static+drop"]).mean, 1.30),
            verdict("lego over the bound", _ratio(lego, bound).mean, 0.93),
        ]
    return Result(
        f"Highest rate at 90 %, SLO {slo_scale:g} times the latency alone",
        "Eight GPUs, FLUX-schnell with ControlNets. Requests a second, each trace re-timed; means and ratios with "
        "bootstrap 95 % intervals, paired by load.",
        ["", *lego, "mean", "over the bound"],
        rows,
        verdicts,
        [
            (
                f"Highest rate at 90 %, SLO {slo_scale:g}x",
                "Means over the loads, with 95 % intervals.",
                bars({name: _point(mean_of(list(each.values()))) for name, each in found.items()}, "requests a second"),
            )
        ],
    )


def _point(estimate: Estimate) -> Point:
    return Point(0.0, estimate.mean, estimate.low, estimate.high)


def _rates(kept: Kept, setting: Setting, name: str, *, quick: bool, key: str, noise: Noise = EXACT) -> Rates:
    def each(load_name: str) -> float:
        load = all_loads(setting, quick=quick)[load_name]
        return highest_rate(setting, load, name, noise=noise)

    return {load: kept(f"rate {name} {load} {key} {noise}", each, load) for load in all_loads(setting, quick=quick)}


def _ratio(above: Rates, below: Rates) -> Estimate:
    return mean_of([above[load] / below[load] for load in below if below[load]])


def other_slos(kept: Kept, *, quick: bool) -> Result:
    """The same at tighter and looser limits."""
    rows, verdicts = [], []
    names = ("static+drop", "packed+drop", "diflow", "diflow-no-admission", "lego", "bound best batch")
    for scale in (1.5, 2.0, 3.0, 5.0):
        setting = artifact(slo_scale=scale)
        found = {name: _rates(kept, setting, name, quick=True, key=f"slo {scale}") for name in names}
        better = max(("diflow", "diflow-no-admission"), key=lambda name: sum(found[name].values()))
        ratio = _ratio(found["lego"], found[better])
        rows.append(
            [f"{scale:g}", *(f"{mean_of(list(found[name].values())).mean:.2f}" for name in names), better, ratio]
        )
        if scale in (1.5, 5.0):
            verdicts.append(
                verdict(f"lego over the better diflow at {scale:g}x", ratio.mean, 1.2 if scale < 2 else 1.08)
            )
    return Result(
        "Other SLOs",
        "The same setting; two traces and two Poisson loads. Highest rate at 90 %.",
        ["SLO", *names, "better diflow", "lego over it"],
        rows,
        verdicts,
    )


def never_below(kept: Kept, *, quick: bool) -> Result:
    """Attainment at rates from idle to twice saturation: the worst gap to any baseline."""
    setting = artifact()
    names = ("static", "static+drop", "packed+drop", "clockwork", "diflow", "diflow-no-admission", "lego")
    loads = all_loads(setting, quick=True)

    def curve(name: str) -> list[list[float]]:
        return [[attainment(setting, retimed(load, rate), name) for load in loads.values()] for rate in GRID]

    curves = {name: kept(f"curve {name}", curve, name) for name in (*names, "bound best batch")}
    rows = []
    worst, where = 1.0, ""
    for index, rate in enumerate(GRID):
        means = {name: sum(curve[index]) / len(curve[index]) for name, curve in curves.items()}
        rows.append([f"{rate:g}", *(f"{100 * means[name]:.1f}" for name in curves)])
        for name in names[:-1]:
            gap = means["lego"] - means[name]
            if gap < worst:
                worst, where = gap, f"{name} at {rate:g}"
    series = {
        name: [Point(rate, sum(c) / len(c), min(c), max(c)) for rate, c in zip(GRID, curve, strict=True)]
        for name, curve in curves.items()
        if name in ("static", "packed+drop", "diflow", "diflow-no-admission", "lego", "bound best batch")
    }
    return Result(
        "At every rate",
        "Requests served in time, %, mean of two traces and two Poisson loads; SLO 2 times the latency alone.",
        ["rate", *curves],
        rows,
        [f"lego's least lead over any baseline is {100 * worst:+.1f} points ({where}); below 0 would be a failure"],
        [
            (
                "Served in time over rate",
                "Bands: the least and the most of four loads.",
                lines(series, "requests a second", "share", mark_y=0.9),
            )
        ],
    )


def ablation(kept: Kept, *, quick: bool) -> Result:
    """What each part of our policy is worth."""
    setting = artifact()
    found = {name: _rates(kept, setting, name, quick=True, key="slo 2.0") for name in ("lego", *ABLATIONS)}
    rows = [
        [name, *(f"{each:.2f}" for each in rates.values()), _ratio(rates, found["lego"])]
        for name, rates in found.items()
    ]
    chart = bars({name: _point(_ratio(rates, found["lego"])) for name, rates in found.items()}, "of lego's rate")
    return Result(
        "Ablation",
        "Highest rate at 90 % with one rule changed, over the whole policy's; SLO 2 times the latency alone.",
        ["", *found["lego"], "of lego"],
        rows,
        charts=[("Ablation", "Highest rate with one rule changed.", chart)],
    )


def sensitivity(kept: Kept, *, quick: bool) -> Result:
    """With errors of estimates and with hops."""
    exact = artifact()
    costs = CostModel((exact.costs.profile(model) for model in _models(exact)), **HOPS)
    limits = {name: exact.work(name).solo_s for name in exact.workflows}
    hops = replace(exact, costs=costs, solo_s=limits)
    cases = {
        "exact": (exact, EXACT),
        "calls 10 % off": (exact, Noise(cost_error=0.1)),
        "calls 25 % off": (exact, Noise(cost_error=0.25)),
        "5 ms until the end of a call is heard": (exact, Noise(hop_s=0.005)),
        "50 ms until the end of a call is heard": (exact, Noise(hop_s=0.05)),
        "hops as on Ray (4, 30 and 50 ms)": (hops, EXACT),
        "the same and calls 10 % off": (hops, Noise(cost_error=0.1)),
    }
    bound = _rates(kept, exact, "bound best batch", quick=True, key="slo 2.0")
    diflow = _rates(kept, exact, DIFLOW[1], quick=True, key="slo 2.0")
    rows, last = [], Estimate(0.0, 0.0, 0.0)
    for case, (setting, noise) in cases.items():
        found = _rates(kept, setting, "lego", quick=True, key=case, noise=noise)
        last = _ratio(found, diflow)
        rows.append([case, *(f"{each:.2f}" for each in found.values()), last, _ratio(found, bound)])
    return Result(
        "A worse world",
        "Lego's highest rate at 90 % where calls take other than estimated and messages take time; the better diflow "
        "and the bound stay exact and without hops. SLO 2 times the latency alone.",
        ["", *bound, "over diflow without admission", "over the bound"],
        rows,
        [verdict("with hops and 10 % error over diflow as shipped without admission", last.mean, 1.2)],
    )


def _models(setting: Setting) -> list[str]:
    return sorted(frozenset().union(*(shape.models for shape in setting.workflows.values())))
