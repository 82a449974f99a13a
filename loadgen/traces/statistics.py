"""Statistics of a trace: rate, how uneven its arrivals are, and what is asked for how often."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from loadgen.traces.record import Record

WINDOWS_S = (1, 10, 60, 600, 3600)
FEWEST_WINDOWS = 8
TOP = (1, 5, 10)
SHOWN = 8  # the most frequent values of a field with many


def describe(records: Sequence[Record]) -> dict[str, object]:
    """Return the statistics of at least one request, in order of time."""
    times_s = np.array([record.at_s for record in records])
    return {
        "requests": len(records),
        "span_s": round(float(times_s[-1] - times_s[0]), 3),
        "rate_rps": _rounded(rate_rps(times_s)),
        "gaps": gap_statistics(times_s),
        "windows": window_statistics(times_s),
        "workflows": _popularity(record.workflow for record in records),
        "models": _popularity(str(record.payload.get("model", "")) for record in records),
        "tenants": _popularity(str(record.extra.get("tenant", "")) for record in records),
        "controlnets": _used([record.names("controlnets") for record in records]),
        "adapters": _used([record.names("adapters") for record in records]),
        "kinds": _shares(record.kind for record in records),
        "images": _shares(str(record.payload.get("n", 1)) for record in records),
        "steps": _shares(str(record.payload.get("num_inference_steps", "")) for record in records),
        "sizes": _shares(str(record.payload.get("size", "")) for record in records),
        "solo_ms": _milliseconds(records, "solo_ms"),
        "slo_ms": _milliseconds(records, "slo_ms"),
    }


def rate_rps(times_s: np.ndarray) -> float:
    """Return the mean rate from the first to the last request; 0 where all are due at once."""
    span_s = float(times_s[-1] - times_s[0])
    return (len(times_s) - 1) / span_s if span_s > 0 else 0.0


def gap_statistics(times_s: np.ndarray) -> dict[str, float]:
    """Return how the gaps between requests are distributed: CV, the share of none, and quantiles in seconds."""
    gaps = np.diff(times_s)
    mean = float(gaps.mean()) if gaps.size else 0.0
    if mean == 0.0:
        return {"cv": 0.0, "zero_share": 1.0 if gaps.size else 0.0, "p50_s": 0.0, "p99_s": 0.0, "max_s": 0.0}
    p50, p99 = np.quantile(gaps, (0.5, 0.99))
    return {
        "cv": _rounded(float(gaps.std()) / mean),
        "zero_share": _rounded(float((gaps == 0).mean())),
        "p50_s": _rounded(float(p50)),
        "p99_s": _rounded(float(p99)),
        "max_s": _rounded(float(gaps.max())),
    }


def window_statistics(times_s: np.ndarray) -> dict[str, dict[str, float]]:
    """Return, for windows of a second to an hour, the counts' index of dispersion and the peak over the mean.

    The index is the variance over the mean: 1 for a Poisson process at any length, larger where requests cluster at
    that time scale.  Windows of which the trace has fewer than eight are left out.
    """
    found: dict[str, dict[str, float]] = {}
    offsets = times_s - times_s[0]
    for window_s in WINDOWS_S:
        count = int(offsets[-1] // window_s)
        if count < FEWEST_WINDOWS:
            continue
        indexes = (offsets // window_s).astype(int)
        counts = np.bincount(indexes[indexes < count], minlength=count)
        mean = float(counts.mean())
        found[f"{window_s}s"] = {
            "dispersion": _rounded(float(counts.var()) / mean if mean else 0.0),
            "peak": int(counts.max()),
            "peak_over_mean": _rounded(float(counts.max()) / mean if mean else 0.0),
        }
    return found


def _popularity(values: Iterable[str]) -> dict[str, object]:
    counts = Counter(value for value in values if value)
    total = sum(counts.values())
    ranked = [count for _, count in counts.most_common()]
    return {
        "distinct": len(counts),
        **{f"top{k}": round(sum(ranked[:k]) / total, 4) for k in TOP if total},
    }


def _used(lists: Sequence[Sequence[str]]) -> dict[str, object]:
    return {
        "share_with": round(sum(bool(names) for names in lists) / len(lists), 4),
        "mean": round(sum(map(len, lists)) / len(lists), 4),
        **_popularity(name for names in lists for name in names),
    }


def _shares(values: Iterable[str]) -> dict[str, float]:
    counts = Counter(values)
    total = sum(counts.values())
    shares = {value or "-": round(count / total, 4) for value, count in counts.most_common(SHOWN)}
    rest = total - sum(count for _, count in counts.most_common(SHOWN))
    return {**shares, "others": round(rest / total, 4)} if rest else shares


def _milliseconds(records: Sequence[Record], field: str) -> dict[str, float]:
    known = [value for record in records if (value := record.milliseconds(field)) is not None]
    if not known:
        return {"share_with": 0.0}
    p50, p95 = np.quantile(known, (0.5, 0.95))
    return {"share_with": round(len(known) / len(records), 4), "p50": _rounded(float(p50)), "p95": _rounded(float(p95))}


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
