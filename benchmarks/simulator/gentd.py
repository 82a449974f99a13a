"""GenTD26: base models that take 22 s to load, two on a GPU, twelve days of requests over each other."""

from collections.abc import Callable, Sequence

from benchmarks.simulator.loads import work_shares
from benchmarks.simulator.tables import Kept, Result, verdict
from benchmarks.simulator.traces import gentd_days, published
from lego_serve.core.cluster.profiles import CostModel, Profile
from lego_serve.core.cluster.work import WorkflowShape
from lego_serve.sim.cluster import Setting
from lego_serve.sim.policies.diflow import Diflow, DiflowOptions
from lego_serve.sim.policies.lego import Lego
from lego_serve.sim.policies.names import lego_options
from lego_serve.sim.policies.static import Static, packed
from lego_serve.sim.run import Outcome, Policy, simulate
from lego_serve.sim.workload import Request

TITLE = "GenTD26, twelve days over each other"
LOAD_S = 22.0
BEGIN_S, END_S, SPEED = 9 * 3600.0, 13 * 3600.0, 1.75  # since noon: nine in the evening to one at night
Maker = Callable[[Setting, Sequence[Request]], Policy]


def table(kept: Kept, *, quick: bool) -> Result:
    """The GPUs that the base models need."""
    path = published("gentd26_lora_requests.csv")
    if path is None:
        return Result(TITLE, "The published trace is not here: no figures.", ["", "GPUs"], [])
    rows = sorted(row for row in gentd_days(path) if BEGIN_S <= row[0] < END_S)
    requests = [Request(i, (at - BEGIN_S) / SPEED, model, 2.0 * s, s) for i, (at, model, s) in enumerate(rows)]
    names = sorted({row[1] for row in rows})
    days, latest = list(gentd_days(path, days=24)), list(gentd_days(path))
    makers = makers_of(_seconds(days[: -len(latest)], names))
    found = {name: kept(f"gentd {name}", _fewest, make, names, requests) for name, make in makers.items()}
    gpus, loads = found["lego"]
    more = round(1.12 * gpus)
    further = kept("gentd lego with more", _loads, makers["lego"], names, requests, more)
    return Result(
        TITLE,
        _words(requests, names),
        ["", "GPUs", "loads a request"],
        [[name, count, f"{each:.2f}"] for name, (count, each) in found.items()],
        [
            verdict("lego's GPUs over argmin's", gpus / found[ARGMIN][0], 0.7, at_most=True),
            verdict("lego's GPUs over hindsight static's", gpus / found[HINDSIGHT][0], 0.75, at_most=True),
            verdict("loads a request", loads, 0.1, at_most=True),
            f"with an eighth more GPUs ({more}) lego loads {further:.2f} times a request",
        ],
    )


ARGMIN, HINDSIGHT = "argmin over idle workers (diflow's rule)", "static+drop, hindsight"


def makers_of(earlier: dict[str, float]) -> dict[str, Maker]:
    """What makes each policy; ``earlier`` is the popularity of the days before."""
    rule = DiflowOptions(admits_all=True, node_s=0.0, hop_s=0.0, advances_inline=True)
    return {
        HINDSIGHT: lambda setting, load: Static(packed(setting, work_shares(load)), drops_hopeless=True),
        "static+drop, earlier popularity": lambda setting, load: Static(packed(setting, earlier), drops_hopeless=True),
        ARGMIN: lambda setting, load: Diflow(rule),
        "lego": lambda setting, load: Lego(lego_options()),
    }


def _seconds(rows: Sequence[tuple[float, str, float]], names: Sequence[str]) -> dict[str, float]:
    total = dict.fromkeys(names, 0.0)
    for _, model, seconds in rows:
        if model in total:
            total[model] += seconds
    return total


def _words(requests: Sequence[Request], names: Sequence[str]) -> str:
    span_s = (END_S - BEGIN_S) / SPEED
    work = sum(each.scale for each in requests) / span_s
    return (
        f"{len(requests)} requests for {len(names)} base models, {len(requests) / span_s:.2f} a second, {work:.1f} "
        f"GPUs of work; two models a GPU, {LOAD_S:g} s a load, SLO 2 times the time of running, requests indivisible. "
        "The fewest GPUs that serve 90 % in time, and loads for each request there."
    )


def setting_of(gpus: int, names: Sequence[str]) -> Setting:
    """So many GPUs with room for two models each."""
    costs = CostModel(Profile(name, LOAD_S, 1, ((1, 1.0),)) for name in names)
    return Setting(gpus, 2, costs, {name: WorkflowShape(name, name, 1) for name in names}, {})


def _run(make: Maker, names: Sequence[str], requests: Sequence[Request], gpus: int) -> Outcome:
    setting = setting_of(gpus, names)
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
