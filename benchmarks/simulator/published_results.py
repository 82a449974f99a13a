"""What DiFlow's artifact publishes, replayed; and queues whose waiting times are known in closed form."""

import random
from dataclasses import replace

from benchmarks.simulator.loads import artifact, attainment, pattern
from benchmarks.simulator.tables import Kept, Result, verdict
from benchmarks.simulator.traces import SCALES, published
from lego_serve.core.cluster.profiles import CostModel, Profile
from lego_serve.core.cluster.work import WorkflowShape
from lego_serve.sim.charts import Point, lines
from lego_serve.sim.cluster import GIB, Setting
from lego_serve.sim.policies.static import Static
from lego_serve.sim.run import Outcome, Policy, simulate
from lego_serve.sim.workload import Request, poisson

MEASURED_S = {"A": 1.9871, "B": 2.0688, "C": 2.4}  # the artifact's own latencies alone, from which it sets its limits
FIRST, HEAD = {"A": (0, 1), "B": (2,), "C": (3,)}, {"A": (0, 1, 2), "B": (3, 4, 5), "C": (6, 7)}
BASELINES = ("static+drop", "packed+drop", "clockwork-as-coded", "clockwork", "diflow", "diflow-no-admission")
ROWS = ("static, 4 GPUs (first version)", "static, 8 GPUs (3/3/2)", *BASELINES, "lego")
BOUNDS = ("bound batch 1", "bound pairs", "bound best batch")


def table(kept: Kept, *, quick: bool) -> Result:
    """Attainment over the artifact's rate scales, and where each system falls below 90 %."""
    setting = artifact()
    shares = {name: kept(f"artifact {name}", _curve, setting, name) for name in (*ROWS, *BOUNDS)}
    limits = replace(setting, solo_s=MEASURED_S)
    for name in ("static, 8 GPUs (3/3/2)", "diflow", "lego"):
        key = f"{name}, the artifact's limits"
        shares[key] = kept(f"artifact {key}", _curve, limits, name)
    rows = [[name, *(f"{100 * each:.1f}" for each in curve), _crossing(curve)] for name, curve in shares.items()]
    series = {
        name: [Point(float(scale), share) for scale, share in zip(SCALES, shares[name], strict=True)]
        for name in (
            "static, 8 GPUs (3/3/2)",
            "diflow",
            "diflow-no-admission",
            "packed+drop",
            "lego",
            "bound best batch",
        )
    }
    return Result(
        "DiFlow's artifact, replayed",
        f"Eight GPUs, SLO 2 times the latency alone (the profile's sum), {_source()}. Requests served in time, %, over "
        "the rate scale (0.74 requests a second each), and the scale at which it falls below 90 %.",
        ["", *SCALES, "90 % at"],
        rows,
        [
            f"diflow falls below 90 % at {_crossing(shares['diflow'])} (published: 4, +-0.3 asked for)",
            f"static on 8 GPUs at {_crossing(shares[ROWS[1]])} (between 2 and 4 asked for)",
            f"static on 4 GPUs at {_crossing(shares[ROWS[0]])} (between 1 and 2 asked for)",
            f"clockwork as coded at {_crossing(shares['clockwork-as-coded'])} (never asked for)",
        ],
        [("DiFlow's artifact, replayed", "Over the rate scale.", lines(series, "rate scale", "share", mark_y=0.9))],
    )


def _source() -> str:
    return "its seven traces" if published("diflow_rs4.0.txt") else "streams with the statistics of its traces"


def _curve(setting: Setting, name: str) -> list[float]:
    def made() -> Policy:
        return Static(FIRST if name == ROWS[0] else HEAD)

    policy = made if name.startswith("static,") else name
    return [attainment(setting, pattern(setting, scale), policy) for scale in SCALES]


def _crossing(curve: list[float]) -> str:
    """Where a curve over the scales falls below 90 %, between two scales by a straight line."""
    scales = [float(each) for each in SCALES]
    if curve[0] < 0.9:
        return "never above"
    for index in range(1, len(curve)):
        if curve[index] < 0.9:
            part = (curve[index - 1] - 0.9) / (curve[index - 1] - curve[index])
            return f"{scales[index - 1] + part * (scales[index] - scales[index - 1]):.2f}"
    return "never below"


def theory(kept: Kept, *, quick: bool) -> Result:
    """Queues with closed forms."""
    count = 60_000 if quick else 400_000
    cases = {
        "M/M/4 at 70 %, mean wait": (4, 0.7, 1e6, True, False, _erlang_c(4, 2.8)),
        "M/M/16 at 75 %, mean wait": (16, 0.75, 1e6, True, False, _erlang_c(16, 12.0)),
        "M/D/1 at 60 %, mean wait": (1, 0.6, 1e6, False, False, 0.6 / 0.8),
        "M/D/5/5 at 80 %, share lost": (5, 0.8, 1.0, False, True, _erlang_b(5, 4.0)),
        "M/D/16/16 at 100 %, share lost": (16, 1.0, 1.0, False, True, _erlang_b(16, 16.0)),
    }
    rows, worst = [], 0.0
    for name, (servers, load, slo_s, exponential, drops, exact) in cases.items():
        found = kept(f"theory {name} {count}", _queue, servers, load, slo_s, count, exponential, drops)
        worst = max(worst, abs(found / exact - 1.0))
        rows.append([name, f"{exact:.4f}", f"{found:.4f}", f"{100 * (found / exact - 1.0):+.2f} %"])
    return Result(
        "Queueing theory",
        f"First come first served, mean service one second, {count} arrivals.",
        ["queue", "closed form", "simulated", "error"],
        rows,
        [verdict("largest error, %", 100 * worst, 2.0, at_most=True)],
    )


def _queue(servers: int, load: float, slo_s: float, count: int, is_exponential: bool, drops: bool) -> float:
    rng = random.Random(1)
    requests = [
        Request(number, at_s, "w", slo_s, rng.expovariate(1.0) if is_exponential else 1.0)
        for number, at_s in enumerate(poisson(servers * load, count, rng))
    ]
    costs = CostModel([Profile("m", 0.0, 1, ((1, 1.0),))])
    setting = Setting(servers, GIB, costs, {"w": WorkflowShape("w", "m", 1)}, {"w": 1.0}, slo_s)
    outcome = simulate(setting, requests, Static({"w": range(servers)}, drops_hopeless=drops))
    return 1.0 - outcome.attainment if drops else _mean_wait_s(outcome)


def _mean_wait_s(outcome: Outcome) -> float:
    return sum(each.at_s - each.request.at_s - each.request.scale for each in outcome.ended) / len(outcome.ended)


def _erlang_b(servers: int, offered: float) -> float:
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked


def _erlang_c(servers: int, offered: float) -> float:
    blocked = _erlang_b(servers, offered)
    waits = blocked / (1.0 - offered / servers * (1.0 - blocked))
    return waits / (servers - offered)
