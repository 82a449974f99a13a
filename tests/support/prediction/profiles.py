"""Profiles of invented costs, and calibrations that such costs would leave."""

from collections.abc import Sequence
from typing import Any

from benchmarks.prediction.costs import AddonShares, Amount, MonolithCosts, Profile, ServerCosts, step_work
from benchmarks.prediction.recording import LEGO, MONOLITH, Group, Shape
from lego_serve.core.costs import Rates

TEXT = 77


def server_costs(**changes: Any) -> ServerCosts:
    values: dict[str, Any] = {
        "encode": Amount(0.004, 0.003),
        "step": Rates(40e-6, 60e-9, 0.004),
        "decode": Amount(0.004, 2e-6),
        "handover_s": {"encode": 0.004, "denoise": 0.005, "decode": 0.003},
        "outside_s": 0.01,
        "between_steps_s": 0.0005,
        "crowding": 0.1,
    }
    return ServerCosts(**values | changes)


def monolith_costs(threads: int = 1, **changes: Any) -> MonolithCosts:
    values: dict[str, Any] = {
        "image": Amount(0.02, 2e-6),
        "step": Rates(45e-6 / threads**0.6, 70e-9 / threads**0.6, 0.006),
        "crowding": 0.1,
    }
    return MonolithCosts(threads, **values | changes)


def profile(**changes: Any) -> Profile:
    return Profile(
        ("calibration",),
        "2026-11-29T00:00:00+00:00",
        2,
        server_costs(**changes),
        {threads: monolith_costs(threads) for threads in (1, 2)},
        TEXT,
    )


def _work(shape: Shape, addons: AddonShares) -> tuple[int, int]:
    work = step_work(shape, addons, TEXT)
    return work.rows, work.pairs


def lego_group(costs: ServerCosts, shape: Shape, lanes: int = 1, company: float = 0.0, slowed: float = 1.0) -> Group:
    """Jobs of one shape on one replica, with another replica in a step for a share of each of theirs."""
    rows, pairs = _work(shape, costs.addons)
    seconds = costs.step.seconds(lanes * rows, lanes * pairs) * (1 + costs.crowding * company) * slowed
    period_s = seconds + costs.between_steps_s
    steps = [[number * period_s, seconds, lanes] for number in range(shape.steps)]
    jobs = [_job(costs, shape, steps, "a", 1000.0)] * lanes
    if company:
        there = [[at_s, company * took_s, 1] for at_s, took_s, _ in steps]
        jobs.append(_job(costs, shape, there, "b", 1000.0))
    own_s = _spans_s(jobs[0])
    return Group("calibration", LEGO, shape, lanes, (own_s + costs.outside_s,) * lanes, tuple(jobs), ready_s=7.0)


def _job(
    costs: ServerCosts, shape: Shape, steps: Sequence[Sequence[float]], replica: str, at_s: float
) -> dict[str, Any]:
    denoise_s = sum(step[1] for step in steps)
    ran = {
        "text_encode": costs.encode.seconds(1),
        "denoise": denoise_s,
        "decode": costs.decode.seconds(shape.pixels),
    }
    spans, now = [], 0.0
    for kind, run_s in ran.items():
        sent_s = costs.handover_s[{"text_encode": "encode"}.get(kind, kind)]
        is_denoise = kind == "denoise"
        spans.append(
            {
                "kind": kind,
                "from_s": now,
                "to_s": now + sent_s + run_s,
                "queue_s": 0.0,
                "run_s": run_s,
                "transfer_s": sent_s,
                "batch": 1,
                "cache": "",
                "steps": [list(step) for step in steps] if is_denoise else [],
                "attempts": [{"replica": replica}] if is_denoise else [],
            }
        )
        now += sent_s + run_s
    return {"id": replica, "created": at_s, "total_s": now, "spans": spans}


def _spans_s(job: dict[str, Any]) -> float:
    return float(sum(span["to_s"] - span["from_s"] for span in job["spans"]))


def monolith_group(costs: MonolithCosts, shape: Shape, outstanding: int = 1, replicas: int = 1) -> Group:
    """Whole images of one shape."""
    rows, pairs = _work(shape, costs.addons)
    own_s = costs.image.seconds(shape.pixels) + shape.steps * costs.step.seconds(rows, pairs)
    seconds = own_s * (1 + costs.crowding * (outstanding - 1))
    return Group(
        "calibration",
        MONOLITH,
        shape,
        outstanding,
        (seconds,) * 3,
        replicas=replicas,
        threads=costs.threads,
        ready_s=4.0,
    )


def shapes(steps: Sequence[int] = (6, 18)) -> list[Shape]:
    return [Shape(side, side, n, g) for side in (96, 128, 192, 256) for n in steps for g in (4.0, 1.0)]


def calibration(server: ServerCosts, monolith: MonolithCosts) -> list[Group]:
    """All groups that both systems would leave."""
    alone = [lego_group(server, shape) for shape in shapes()]
    together = [lego_group(server, shape, lanes, 1.0) for shape in shapes((6,)) for lanes in (2, 4)]
    images = [monolith_group(monolith, shape, n, 2) for shape in shapes() for n in (1, 2)]
    return [*alone, *together, *images]
