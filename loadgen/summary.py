"""Turns timed runs into the numbers of ``summary.json``; pure arithmetic.

The value of a round is the median over its bursts; the reported value is the median over rounds, with extremes.
Latencies are those of the requests that got an image; requests without one count as missed objectives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loadgen.client import Sample
from loadgen.images import read_pixels
from loadgen.stats import Spread, median, percentile

KEYS = ("mean_s", "p50_s", "p95_s", "throughput_rps", "attainment", "max_rate_at_90pct")
RATIOS = {"throughput": "throughput_rps", "mean": "mean_s", "p95": "p95_s", "max_rate_at_90pct": "max_rate_at_90pct"}
RUN_FACTS = ("command", "commit", "date", "quick")

Burst = Sequence[Sample]
Rounds = Sequence[Sequence[Burst]]  # rounds of bursts of samples


class NoImagesError(Exception):
    """A system made no image at all; the message carries its error."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers of one system over all rounds: a spread for each key that applies."""

    spreads: Mapping[str, Spread]

    @property
    def medians(self) -> dict[str, float | None]:
        """Every key of a system in ``summary.json``; None where a key does not apply."""
        return {key: round(self.spreads[key].median, 4) if key in self.spreads else None for key in KEYS}

    @property
    def extremes(self) -> dict[str, list[float]]:
        """The lowest and the highest round of each key that applies."""
        return {key: [round(spread.low, 4), round(spread.high, 4)] for key, spread in self.spreads.items()}


def throughput_rps(burst: Burst) -> float:
    """Return images per second, from the first due to the last done.  Raises NoImagesError if there was none."""
    answered = [sample for sample in burst if sample.is_ok]
    if not answered:
        raise NoImagesError(f"no image came back; the first answer was {burst[0].reply.error}")
    return len(answered) / (max(s.done_s for s in answered) - min(s.due_s for s in burst))


def solo_s(rounds: Rounds) -> float:
    """Return the median seconds of one image alone, from bursts answered strictly one after the other."""
    return median([s.service_s for bursts in rounds for burst in bursts for s in burst if s.is_ok])


def latency_figures(latencies_s: Sequence[float]) -> dict[str, float]:
    """Return the mean and the percentiles of latencies."""
    return {
        "mean_s": sum(latencies_s) / len(latencies_s),
        "p50_s": percentile(latencies_s, 0.5),
        "p95_s": percentile(latencies_s, 0.95),
    }


def figures(rounds: Rounds, slo_s: float) -> Figures:
    """Return the numbers of one system under a latency objective."""
    values: dict[str, list[float]] = {}
    for bursts in rounds:
        measured = [_burst_figures(burst, slo_s) for burst in bursts]
        for key in measured[0]:
            values.setdefault(key, []).append(median([m[key] for m in measured]))
    return Figures({key: Spread.of(of_rounds) for key, of_rounds in values.items()})


def _burst_figures(burst: Burst, slo_s: float) -> dict[str, float]:
    rate = throughput_rps(burst)
    latencies = [s.latency_s for s in burst if s.is_ok]
    return {
        **latency_figures(latencies),
        "throughput_rps": rate,
        "attainment": sum(latency <= slo_s for latency in latencies) / len(burst),
    }


def ratios(baseline: Figures, lego: Figures) -> dict[str, float | None]:
    """Return lego's median over the baseline's for each ratio; None where a key does not apply."""
    by_name: dict[str, float | None] = {}
    for name, key in RATIOS.items():
        below, above = baseline.medians[key], lego.medians[key]
        by_name[name] = round(above / below, 3) if below and above is not None else None
    return by_name


def round_ratios(baseline: Rounds, lego: Rounds) -> list[float]:
    """Return the throughput ratio of each round by itself."""
    return [round(_rate(above) / _rate(below), 3) for below, above in zip(baseline, lego, strict=True)]


def _rate(bursts: Sequence[Burst]) -> float:
    return median([throughput_rps(burst) for burst in bursts])


def image_differences(baseline: Rounds, lego: Rounds) -> dict[str, float | int | None]:
    """Return how far the systems' images of the same requests lie apart, in 255ths of full brightness."""
    pairs = zip(_samples(baseline), _samples(lego), strict=True)
    differences = [difference for one, other in pairs if (difference := max_difference_255(one, other)) is not None]
    return {
        "images_compared": len(differences),
        "max_difference_255": max(differences) if differences else None,
        "median_max_difference_255": median(differences) if differences else None,
    }


def max_difference_255(one: Sample, other: Sample) -> int | None:
    """Return the largest difference of any pixel of two images; None where an image is missing."""
    if one.reply.image is None or other.reply.image is None:
        return None
    difference = read_pixels(one.reply.image).astype(np.int16) - read_pixels(other.reply.image).astype(np.int16)
    return int(np.abs(difference).max())


def _samples(rounds: Rounds) -> list[Sample]:
    return [sample for bursts in rounds for burst in bursts for sample in burst]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The measurements of a baseline and lego_serve that every suite has."""

    suite: str
    seed: int
    slo_scale: float
    rate_rps: float | None  # at which latencies were compared; None where requests come in bursts
    baseline_name: str
    baseline: Figures
    lego: Figures
    quality: Mapping[str, object]

    def document(self, context: Mapping[str, object], details: Mapping[str, object]) -> dict[str, object]:
        """Return the content of ``summary.json``; ``context`` says where and how the suite was measured."""
        return {
            "suite": self.suite,
            "machine": context["machine"],
            "versions": context["versions"],
            "seed": self.seed,
            "rate_rps": self.rate_rps,
            "slo": f"{self.slo_scale:g}x solo",
            "baseline": {"name": self.baseline_name, **self.baseline.medians},
            "lego": {"name": "lego_serve", **self.lego.medians},
            "ratio": ratios(self.baseline, self.lego),
            "quality": dict(self.quality),
            "details": {
                **{name: context[name] for name in RUN_FACTS},
                "spread": {"baseline": self.baseline.extremes, "lego": self.lego.extremes},
                **details,
            },
        }
