"""More models than a GPU holds: eighteen workflows on sixteen GPUs, and the base models of GenTD26."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.simulator.loads import highest_rate, work_shares, zoo
from benchmarks.simulator.tables import Kept, Result, verdict
from benchmarks.simulator.traces import gentd_days, published
from lego_serve.core.cluster.profiles import CostModel, Profile
from lego_serve.core.cluster.work import WorkflowShape
from lego_serve.sim.charts import bars
from lego_serve.sim.cluster import Setting
from lego_serve.sim.policies.diflow import Diflow, DiflowOptions
from lego_serve.sim.policies.lego import Lego
from lego_serve.sim.policies.names import lego_options, policy_named
from lego_serve.sim.policies.static import Static, packed
from lego_serve.sim.run import Outcome, Policy, simulate
from lego_serve.sim.statistics import mean_of
from lego_serve.sim.workload import Request, poisson, requests_of

FLOOR = 0.75
SEEDS = (5, 6)
SHIFT_S = 150.0  # how long after a shift is looked at
LOAD_S = 22.0
BEGIN_S, END_S, SPEED = 9 * 3600.0, 13 * 3600.0, 1.75  # of GenTD26: nine in the evening to one at night
Maker = Callable[[Setting, Sequence[Request]], Policy]


def table(kept: Kept, *, quick: bool) -> Result:
    """The zoo's highest rates with every class at 75 %."""
    setting = zoo()
    baselines = ("static+drop", "packed", "packed+drop", "clockwork", "diflow", "diflow-no-admission")
    names = (*baselines, "lego", "lego-no-batch", "lego-no-pair", "lego-no-prefetch")
    seeds = SEEDS[:1] if quick else SEEDS
    count = 500 if quick else 900

    def rate(name: str, seed: int) -> float:
        load = zoo_load(setting, seed, count)
        return highest_rate(setting, load, name, low=0.3, high=6.5, tolerance=0.06, is_met=_is_fair)

    found = {name: [kept(f"zoo {name} {seed} {count}", rate, name, seed) for seed in seeds] for name in names}
    means = {name: mean_of(values) for name, values in found.items()}
    verdicts = [
        verdict("lego over diflow as shipped", means["lego"].mean / max(0.01, means["diflow"].mean), 3.0),
        verdict("lego over packed+drop", means["lego"].mean / means["packed+drop"].mean, 1.15),
    ]
    after = {
        name: [kept(f"shift {name} {s}", _after_a_shift, setting, name, s) for s in seeds]
        for name in ("packed+drop", "lego")
    }
    shift = sum(after["lego"]) / max(1e-9, sum(after["packed+drop"]))
    verdicts.append(verdict("rate in the 150 s after a shift, over packed+drop by yesterday's popularity", shift, 1.5))
    rows = [[name, *(f"{each:.2f}" for each in values), means[name]] for name, values in found.items()]
    rows += [
        [f"{name}, after a shift", *(f"{each:.2f}" for each in values), mean_of(values)]
        for name, values in after.items()
    ]
    return Result(
        "Eighteen workflows on sixteen GPUs",
        "Six families, 116 GiB of models, 72 GiB a GPU, Zipf shares, Poisson arrivals; SLO 2 times the latency alone. "
        "Highest rate at 90 % with every class at 75 % or more. Packed placements know the popularity; diflow and lego "
        "begin with empty GPUs. After a shift: all ranks of popularity are shuffled, and 90 % of the requests of the "
        "next 150 s are to be in time (no class floor: too few requests).",
        ["", *(f"seed {seed}" for seed in seeds), "mean"],
        rows,
        verdicts,
        [
            (
                "Eighteen workflows",
                "Highest rate at 90 %, every class at 75 %.",
                bars({name: each.mean for name, each in means.items()}, "requests a second"),
            )
        ],
    )


def _is_fair(outcome: Outcome) -> bool:
    return outcome.attainment >= 0.9 and min(outcome.by_class().values()) >= FLOOR


def zoo_load(setting: Setting, seed: int, count: int) -> list[Request]:
    """Poisson arrivals of the zoo's workflows, by their shares."""
    rng = random.Random(seed)
    return requests_of(poisson(4.0, count, rng), setting.shares, setting.slo_s, rng)


def _after_a_shift(setting: Setting, name: str, seed: int) -> float:
    """The highest rate at which those are served that come within a while after popularity was shuffled."""
    rng = random.Random(seed)
    names, weights = list(setting.shares), list(setting.shares.values())
    rng.shuffle(weights)
    shuffled = dict(zip(names, weights, strict=True))

    def requests(rate: float) -> tuple[list[Request], float]:
        drawn = random.Random(seed + 1)
        before = requests_of(poisson(rate, round(rate * 300), drawn), setting.shares, setting.slo_s, drawn)
        shift_s = before[-1].at_s
        after = requests_of(poisson(rate, round(rate * SHIFT_S), drawn), shuffled, setting.slo_s, drawn)
        moved = [replace(r, id=len(before) + r.id, at_s=shift_s + r.at_s) for r in after]
        return [*before, *moved], shift_s

    low, high = 0.3, 6.5
    while high - low > 0.06:
        rate = (low + high) / 2
        load, shift_s = requests(rate)
        outcome = simulate(setting, load, policy_named(name, setting))
        late = [each for each in outcome.ended if each.request.at_s > shift_s]
        if sum(each.status == "met" for each in late) >= 0.9 * len(late):
            low = rate
        else:
            high = rate
    return round(low, 2)


def gentd(kept: Kept, *, quick: bool) -> Result:
    """The GPUs that GenTD26's base models need."""
    path = published("gentd26_lora_requests.csv")
    title = "GenTD26, twelve days over each other"
    if path is None:
        return Result(title, "The published trace is not here: no figures.", ["", "GPUs"], [])
    rows = sorted(row for row in gentd_days(path) if BEGIN_S <= row[0] < END_S)
    requests = [Request(i, (at - BEGIN_S) / SPEED, model, 2.0 * s, s) for i, (at, model, s) in enumerate(rows)]
    earlier = sorted(row for row in gentd_days(path, 24) if row not in set(rows))
    names = sorted({row[1] for row in rows})
    yesterday = {name: sum(row[2] for row in earlier if row[1] == name) for name in names}
    makers: dict[str, Maker] = {
        "static+drop, hindsight": lambda s, r: Static(packed(s, work_shares(r)), drops_hopeless=True),
        "static+drop, earlier popularity": lambda s, r: Static(packed(s, yesterday), drops_hopeless=True),
        "argmin over idle workers (diflow's rule)": lambda s, r: _argmin(),
        "lego without prefetch": lambda s, r: policy_named("lego-no-prefetch", s),
        "lego": lambda s, r: Lego(lego_options()),
    }
    span_s = (END_S - BEGIN_S) / SPEED
    work = sum(each.scale for each in requests) / span_s
    found = {name: kept(f"gentd {name}", _fewest, make, names, requests) for name, make in makers.items()}
    lego = found["lego"]
    at_crossing = kept("gentd loads", _loads, makers["lego"], names, requests, lego[0])
    further = kept("gentd loads further", _loads, makers["lego"], names, requests, round(1.12 * lego[0]))
    return Result(
        title,
        f"{len(requests)} requests for {len(names)} base models, {len(requests) / span_s:.2f} a second, {work:.1f} "
        f"GPUs of work; two models a GPU, {LOAD_S:g} s a load, SLO 2 times the time of running, requests indivisible. "
        "The fewest GPUs that serve 90 % in time, and loads for each request there.",
        ["", "GPUs", "loads a request"],
        [[name, gpus, f"{loads:.2f}"] for name, (gpus, loads) in found.items()],
        [
            verdict(
                "lego's GPUs over argmin's",
                lego[0] / found["argmin over idle workers (diflow's rule)"][0],
                0.7,
                at_most=True,
            ),
            verdict(
                "lego's GPUs over hindsight static's", lego[0] / found["static+drop, hindsight"][0], 0.75, at_most=True
            ),
            verdict("loads a request", at_crossing, 0.1, at_most=True),
            f"with an eighth more GPUs ({round(1.12 * lego[0])}) lego loads {further:.2f} times a request",
        ],
    )


def _argmin() -> Diflow:
    return Diflow(DiflowOptions(admits_all=True, node_s=0.0, hop_s=0.0, advances_inline=True))


def _setting(gpus: int, names: Sequence[str]) -> Setting:
    costs = CostModel(Profile(name, LOAD_S, 1, ((1, 1.0),)) for name in names)
    return Setting(gpus, 2, costs, {name: WorkflowShape(name, name, 1) for name in names}, {})


def _run(make: Maker, names: Sequence[str], requests: Sequence[Request], gpus: int) -> Outcome:
    setting = _setting(gpus, names)
    return simulate(setting, requests, make(setting, requests))


def _fewest(make: Maker, names: Sequence[str], requests: Sequence[Request]) -> tuple[int, float]:
    low, high = 20, 80
    while high - low > 1:
        middle = (low + high) // 2
        if _run(make, names, requests, middle).attainment >= 0.9:
            high = middle
        else:
            low = middle
    return high, _loads(make, names, requests, high)


def _loads(make: Maker, names: Sequence[str], requests: Sequence[Request], gpus: int) -> float:
    outcome = _run(make, names, requests, gpus)
    return sum(gpu.loads for gpu in outcome.gpus) / len(requests)
