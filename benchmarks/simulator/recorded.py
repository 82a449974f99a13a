"""Steps of a real model on this machine, replayed through the simulator: how far each is from what it takes there.

The profile is made from batches of 1, 2, 4 and 8 lanes; what is replayed has any number of lanes and comes later.
"""

import random
import time
from itertools import pairwise

import torch

from benchmarks.engine.models import Subject, build
from benchmarks.simulator.tables import Kept, Result, verdict
from lego_serve.core.cluster.profiles import CostModel, Profile
from lego_serve.core.cluster.work import WorkflowShape
from lego_serve.sim.cluster import GIB, Setting, SimCluster
from lego_serve.sim.statistics import quantile

BATCHES = (1, 2, 4, 8)
SIDE = 12  # tokens
REPEATS = 9


def table(kept: Kept, *, quick: bool) -> Result:
    """Record, replay, compare."""
    steps = 40 if quick else 160
    torch.set_num_threads(1)
    subject = build("tiny", torch.device("cpu"))
    points, recorded = record(subject, steps, seed=1)
    replayed = replay(points, [lanes for lanes, _ in recorded])
    errors = sorted(abs(ours / real - 1.0) for ours, (_, real) in zip(replayed, recorded, strict=True))
    total = sum(replayed) / sum(real for _, real in recorded) - 1.0
    median, p95 = 100 * quantile(errors, 0.5), 100 * quantile(errors, 0.95)
    rows = [[lanes, f"{1000 * seconds:.2f}"] for lanes, seconds in points]
    return Result(
        "Recorded steps, replayed",
        f"lego-tiny on one core of this machine, {steps} steps of one to eight lanes; seconds of processor. The "
        "profile is the median of nine steps each.",
        ["lanes", "ms a step"],
        rows,
        [
            verdict("median error, %", median, 5.0, at_most=True),
            verdict("95th percentile of the error, %", p95, 15.0, at_most=True),
            f"all steps together: {100 * total:+.1f} %",
        ],
    )


def record(subject: Subject, steps: int, seed: int) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Measure the profile's points, each among the steps that are replayed, so that neither has a quieter machine."""
    rng = random.Random(seed)
    lanes = [subject.lane(number, SIDE, SIDE) for number in range(max(BATCHES))]

    def step_s(count: int) -> float:
        started = time.thread_time()
        subject.backbone.velocity(lanes[:count])
        return time.thread_time() - started

    for count in BATCHES:
        step_s(count)  # warm
    taken: dict[int, list[float]] = {count: [] for count in BATCHES}
    recorded = []
    for number in range(steps):
        if number % max(1, steps // REPEATS) == 0:
            for count in BATCHES:
                taken[count].append(step_s(count))
        count = rng.randint(1, max(BATCHES))
        recorded.append((count, step_s(count)))
    return [(count, quantile(sorted(each), 0.5)) for count, each in taken.items()], recorded


def replay(points: list[tuple[int, float]], lanes: list[int]) -> list[float]:
    """The seconds that the simulator takes for each step, one after the other on one GPU."""
    costs = CostModel([Profile("m", 0.0, 1, tuple(points))])
    cluster = SimCluster(Setting(1, GIB, costs, {"w": WorkflowShape("w", "m", 1)}, {}))
    cluster.preload(0, ["m"])
    ends: list[float] = []

    def step() -> None:
        ends.append(cluster.now)
        if len(ends) <= len(lanes):
            cluster.execute((0,), costs.seconds("m", lanes[len(ends) - 1]), frozenset("m"), step)

    step()
    cluster.engine.run()
    return [after - before for before, after in pairwise(ends)]
