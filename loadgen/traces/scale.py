"""Changes a trace: cuts a window, folds days over each other, repeats, thins out, and changes the rate."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from loadgen.traces.record import Record


@dataclass(frozen=True, slots=True)
class Scaling:
    """The changes, made in this order; each leaves the first request due at once.

    ``window_s`` keeps requests from the one second to before the other.  ``fold_s`` lays spans of so many seconds over
    each other, which raises the rate without making one user's series a burst, as a mere speed-up does.  ``repeat``
    appends the trace to itself, and ``keep`` is the share of requests that stay.  The rate comes last: ``speedup``
    divides all times, ``rate_rps`` chooses the speed-up that makes the mean rate so.
    """

    window_s: tuple[float, float] | None = None
    fold_s: float | None = None
    repeat: int = 1
    keep: float = 1.0
    speedup: float = 1.0
    rate_rps: float | None = None


def scale(records: Sequence[Record], scaling: Scaling, seed: int) -> list[Record]:
    """Return the changed trace.  Raises ValueError where no request is left, or all are due at once."""
    changed = _rebased(list(records))
    if scaling.window_s is not None:
        low, high = scaling.window_s
        changed = _rebased([record for record in changed if low <= record.at_s < high])
    if scaling.fold_s is not None:
        fold_ms = 1000 * scaling.fold_s
        changed = [_at(record, record.timestamp_ms % fold_ms) for record in changed]
        changed = _rebased(sorted(changed, key=lambda record: record.timestamp_ms))
    if scaling.repeat > 1:
        changed = _repeated(changed, scaling.repeat)
    if scaling.keep < 1.0:
        kept = sorted(random.Random(f"{seed}/keep").sample(range(len(changed)), round(scaling.keep * len(changed))))
        changed = _rebased([changed[index] for index in kept])
    if not changed:
        raise ValueError("no request of the trace is left")
    speedup = scaling.speedup if scaling.rate_rps is None else scaling.rate_rps / _mean_rate_rps(changed)
    return [_at(record, record.timestamp_ms / speedup) for record in changed]


def _mean_rate_rps(records: Sequence[Record]) -> float:
    span_s = records[-1].at_s - records[0].at_s
    if span_s <= 0:
        raise ValueError(f"all {len(records)} requests of the trace are due at once, so it has no rate to change")
    return (len(records) - 1) / span_s


def _repeated(records: Sequence[Record], times: int) -> list[Record]:
    """Append a trace to itself, with its mean gap between the end and the next beginning."""
    span_ms = records[-1].timestamp_ms if records else 0.0
    period_ms = span_ms + span_ms / max(1, len(records) - 1)
    return [
        _at(record.take(turn), record.timestamp_ms + turn * period_ms) for turn in range(times) for record in records
    ]


def _rebased(records: Sequence[Record]) -> list[Record]:
    start_ms = records[0].timestamp_ms if records else 0.0
    return [_at(record, record.timestamp_ms - start_ms) for record in records]


def _at(record: Record, timestamp_ms: float) -> Record:
    return replace(record, timestamp_ms=timestamp_ms)
