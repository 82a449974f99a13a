"""From timed runs to the numbers of ``summary.json``; pure arithmetic.

Each round's value is the median over its bursts; what is reported is the median over rounds, with extremes.
Latencies are those of the images that came; requests without one count as missed objectives.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from loadgen.client import Sample
from loadgen.stats import Spread, median, percentile

KEYS = ("mean_s", "p50_s", "p95_s", "throughput_rps", "attainment", "max_rate_at_90pct")
RATIOS = {"throughput": "throughput_rps", "mean": "mean_s", "p95": "p95_s", "max_rate_at_90pct": "max_rate_at_90pct"}

Burst = Sequence[Sample]
Rounds = Sequence[Sequence[Burst]]  # rounds of bursts of samples


class NoImagesError(Exception):
    """A side made no image at all; the message carries what it said instead."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One side's numbers over all rounds: a spread for each key that applies."""

    spreads: Mapping[str, Spread]

    @property
    def medians(self) -> dict[str, float | None]:
        """Every key of a side in ``summary.json``; None where a key does not apply."""
        return {key: round(self.spreads[key].median, 4) if key in self.spreads else None for key in KEYS}

    @property
    def extremes(self) -> dict[str, list[float]]:
        """Lowest and highest round of each key that applies."""
        return {key: [round(spread.low, 4), round(spread.high, 4)] for key, spread in self.spreads.items()}


def throughput_rps(burst: Burst) -> float:
    """Images a second, from the first due to the last done; NoImagesError if there was none."""
    answered = [sample for sample in burst if sample.is_ok]
    if not answered:
        raise NoImagesError(f"no image came back; the first answer was {burst[0].reply.error}")
    return len(answered) / (max(s.done_s for s in answered) - min(s.due_s for s in burst))


def solo_s(rounds: Rounds) -> float:
    """The usual time of one image alone, from bursts answered strictly one after the other."""
    return median([s.done_s - s.sent_s for bursts in rounds for burst in bursts for s in burst if s.is_ok])


def figures(rounds: Rounds, slo_s: float) -> Figures:
    """One side's numbers under a latency objective."""
    values: dict[str, list[float]] = {}
    for bursts in rounds:
        measured = [_of_burst(burst, slo_s) for burst in bursts]
        for key in measured[0]:
            values.setdefault(key, []).append(median([m[key] for m in measured]))
    return Figures({key: Spread.of(each) for key, each in values.items()})


def _of_burst(burst: Burst, slo_s: float) -> dict[str, float]:
    rate = throughput_rps(burst)
    latencies = [s.latency_s for s in burst if s.is_ok]
    return {
        "mean_s": sum(latencies) / len(latencies),
        "p50_s": percentile(latencies, 0.5),
        "p95_s": percentile(latencies, 0.95),
        "throughput_rps": rate,
        "attainment": sum(latency <= slo_s for latency in latencies) / len(burst),
    }


def ratios(baseline: Figures, lego: Figures) -> dict[str, float | None]:
    """Lego over baseline, of the medians; None where a key does not apply."""
    found: dict[str, float | None] = {}
    for name, key in RATIOS.items():
        below, above = baseline.medians[key], lego.medians[key]
        found[name] = round(above / below, 3) if below and above is not None else None
    return found


def round_ratios(baseline: Rounds, lego: Rounds) -> list[float]:
    """The throughput ratio of each round by itself."""
    pairs = zip(baseline, lego, strict=True)
    return [round(_rate(ours) / _rate(theirs), 3) for theirs, ours in pairs]


def _rate(bursts: Sequence[Burst]) -> float:
    return median([throughput_rps(burst) for burst in bursts])


def image_differences(baseline: Rounds, lego: Rounds) -> dict[str, float | int | None]:
    """How far the sides' images of the same requests lie apart, in 255ths of full brightness."""
    largest: list[int] = []
    for theirs, ours in zip(_samples(baseline), _samples(lego), strict=True):
        if theirs.reply.image is not None and ours.reply.image is not None:
            difference = np.abs(_pixels(theirs.reply.image) - _pixels(ours.reply.image))
            largest.append(int(difference.max()))
    return {
        "images_compared": len(largest),
        "max_difference_255": max(largest) if largest else None,
        "median_max_difference_255": median(largest) if largest else None,
    }


def _samples(rounds: Rounds) -> list[Sample]:
    return [sample for bursts in rounds for burst in bursts for sample in burst]


def _pixels(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)  # (height, width, 3)
