"""What was answered in time, as the numbers of ``summary.json``; pure arithmetic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from loadgen.client import Sample
from loadgen.goodput.plan import GoodputSuite
from loadgen.stats import median, percentile
from loadgen.summary import image_differences

REFUSED = 429
SHARE = 0.9  # of all requests, for the highest rate
RESAMPLES = 2000


@dataclass(slots=True)
class GoodputSide:
    """What was measured of one system: samples by load and round, its memory under load, and what its start took."""

    name: str
    samples: dict[float, list[list[Sample]]] = field(default_factory=dict)
    memory_bytes: list[int] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)


def side_figures(side: GoodputSide, loads: Mapping[float, float], slo_s: float) -> dict[str, object]:
    """Return a system's numbers: at each load, the highest rate at SHARE, and memory; ``loads`` has their rates."""
    at_loads = [_load_figures(side.samples[load], rate_rps, slo_s) for load, rate_rps in loads.items()]
    return {
        "name": side.name,
        "loads": at_loads,
        "rate_rps_at_90pct": rate_at_share([(each["rate_rps"], each["attainment"]) for each in at_loads]),
        "memory_bytes": max(side.memory_bytes, default=0),
        "ready_s": [round(seconds, 1) for seconds in side.ready_s],
    }


def _load_figures(rounds: Sequence[Sequence[Sample]], rate_rps: float, slo_s: float) -> dict[str, float]:
    every = [sample for samples in rounds for sample in samples]
    in_time = [sample.is_ok and sample.latency_s <= slo_s for sample in every]
    made_s = [sample.latency_s for sample in every if sample.is_ok]
    refused_s = [sample.service_s for sample in every if sample.reply.status == REFUSED]
    attainment = sum(in_time) / len(every)
    return {
        "rate_rps": round(rate_rps, 4),
        "requests": len(every),
        "attainment": round(attainment, 4),
        "goodput_rps": round(attainment * rate_rps, 4),
        "refused": len(refused_s),
        "refused_p99_ms": round(1000 * percentile(refused_s, 0.99), 1) if refused_s else 0.0,
        "failed": sum(not sample.is_ok for sample in every) - len(refused_s),
        "mean_s": round(sum(made_s) / len(made_s), 4) if made_s else 0.0,
        "p95_s": round(percentile(made_s, 0.95), 4) if made_s else 0.0,
        "sent_late_p99_s": round(percentile([sample.sent_s - sample.due_s for sample in every], 0.99), 4),
    }


def rate_at_share(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the rate at which attainment falls below SHARE, between the rates that were tried; None below them all.

    It is the last rate tried where attainment stays above SHARE, so that the true one may be higher.
    """
    below = None
    for rate_rps, attainment in sorted(points):
        if attainment < SHARE:
            if below is None:
                return None
            share = (below[1] - SHARE) / (below[1] - attainment)
            return round(below[0] + share * (rate_rps - below[0]), 4)
        below = rate_rps, attainment
    return None if below is None else below[0]


def goodput_ratio(
    baseline: Sequence[Sequence[Sample]], lego: Sequence[Sequence[Sample]], slo_s: float, seed: int
) -> dict[str, float | None]:
    """Return how much more is answered in time, with a bootstrap 95 % interval over requests, paired."""
    pairs = np.array(
        [
            (b.is_ok and b.latency_s <= slo_s, x.is_ok and x.latency_s <= slo_s)
            for both in zip(baseline, lego, strict=True)
            for b, x in zip(*both, strict=True)
        ],
        dtype=float,
    )
    drawn = np.random.default_rng(seed).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    sums = pairs[drawn].sum(axis=1)
    ratios = sums[:, 1][sums[:, 0] > 0] / sums[:, 0][sums[:, 0] > 0]
    below, above = pairs.sum(axis=0)
    if not below or not len(ratios):
        return {"ratio": None, "low": None, "high": None}
    low, high = np.quantile(ratios, (0.025, 0.975))
    return {"ratio": round(float(above / below), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def summarise(
    suite: GoodputSuite,
    sides: tuple[GoodputSide, GoodputSide],
    loads: Mapping[float, float],
    solo_s: float,
    seed: int,
    context: Mapping[str, object],
) -> dict[str, object]:
    """Return the content of ``summary.json``; ``loads`` has the rate of each load."""
    baseline, lego = sides
    slo_s = suite.slo_scale * solo_s
    figures = [side_figures(side, loads, slo_s) for side in sides]
    rates = [each["rate_rps_at_90pct"] for each in figures]
    known = [rate for rate in rates if isinstance(rate, float)]
    pairs = [(baseline.samples[load], lego.samples[load]) for load in loads]
    below, above = (max(side.memory_bytes, default=0) for side in sides)
    return {
        "suite": suite.name,
        **context,
        "seed": seed,
        "slo": f"{suite.slo_scale:g}x solo",
        "slo_s": round(slo_s, 4),
        "solo_s": round(solo_s, 4),
        "baseline": figures[0],
        "lego": figures[1],
        "ratio": {
            "goodput": [goodput_ratio(*pair, slo_s, seed) for pair in pairs],
            "rate_at_90pct": round(known[1] / known[0], 3) if len(known) == len(rates) else None,
            "memory": round(above / below, 3) if below else None,
        },
        "quality": image_differences([one for one, _ in pairs], [other for _, other in pairs]),
    }


def full_rate_rps(samples: Sequence[Sample]) -> float:
    """Return the images a second of a server that was always full.  Raises ValueError where none came back."""
    done = [sample.done_s for sample in samples if sample.is_ok]
    if not done:
        raise ValueError(f"no image came back; the first answer was {samples[0].reply.error}")
    return len(done) / max(done)


def alone_s(samples: Sequence[Sample]) -> float:
    """Return the median seconds of requests that were sent one after the other."""
    return median([sample.service_s for sample in samples if sample.is_ok])
