"""Turns outcomes into the numbers of ``summary.json``; pure arithmetic."""

from collections import Counter
from collections.abc import Callable, Sequence

from loadgen.runs.outcome import Outcome
from loadgen.stats import percentile

LATE_S = 0.05  # a client that sends its 99th percentile later than this measures itself
PERCENTILES = {"p50_s": 0.5, "p90_s": 0.9, "p95_s": 0.95, "p99_s": 0.99}


def summarise(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return the numbers of a run of at least one request.

    Latency counts from when a request was due, service from when it was sent.  A request without an image has missed
    its objective, and its latency is left out; ``waited`` counts it as if its client had waited to the end of the run.
    """
    answered = [outcome for outcome in outcomes if outcome.is_ok]
    start_s, end_s = min(o.due_s for o in outcomes), max(o.done_s for o in outcomes)
    span_s = max(end_s - start_s, 1e-9)
    due_span_s = max(o.due_s for o in outcomes) - start_s
    late_s = percentile([o.late_s for o in outcomes], 0.99)
    return {
        "requests": len(outcomes),
        "answered": len(answered),
        "span_s": _rounded(span_s),
        "offered_rps": _rounded((len(outcomes) - 1) / due_span_s) if due_span_s > 0 else None,
        "throughput_rps": _rounded(len(answered) / span_s),
        "goodput_rps": _rounded(sum(o.is_met for o in outcomes) / span_s),
        "attainment": _attainment(outcomes),
        "latency": _distribution([o.latency_s for o in answered]),
        "service": _distribution([o.done_s - o.sent_s for o in answered]),
        "waited": _distribution(waited_s(outcomes)),
        "client": {"late_p99_s": _rounded(late_s), "is_late": late_s > LATE_S},
        "statuses": {str(status): count for status, count in sorted(Counter(o.status for o in outcomes).items())},
        "first_error": next((o.error for o in outcomes if o.error), None),
        "by_workflow": _groups(outcomes, lambda o: o.workflow),
        "by_kind": _groups(outcomes, lambda o: o.kind),
        "by_size": _groups(outcomes, lambda o: o.size),
    }


def waited_s(outcomes: Sequence[Outcome]) -> list[float]:
    """Return every request's latency; one without an image waited to the end, and at least for its objective.

    A server must not gain by dropping late requests.
    """
    end_s = max(outcome.done_s for outcome in outcomes)
    return [o.latency_s if o.is_ok else max(end_s - o.due_s, o.slo_s or 0.0) for o in outcomes]


def _groups(outcomes: Sequence[Outcome], key: Callable[[Outcome], str]) -> dict[str, object]:
    """Return the numbers of each group, the largest first."""
    counts = Counter(key(outcome) for outcome in outcomes)
    groups: dict[str, object] = {}
    for name, count in counts.most_common():
        members = [outcome for outcome in outcomes if key(outcome) == name]
        answered = [outcome.latency_s for outcome in members if outcome.is_ok]
        groups[name or "-"] = {
            "requests": count,
            "answered": len(answered),
            "attainment": _attainment(members),
            "p50_s": _rounded(percentile(answered, 0.5)) if answered else None,
            "p95_s": _rounded(percentile(answered, 0.95)) if answered else None,
        }
    return groups


def _attainment(outcomes: Sequence[Outcome]) -> float | None:
    """Return the share within the objective; None where there is none."""
    if all(outcome.slo_s is None for outcome in outcomes):
        return None
    return _rounded(sum(outcome.is_met for outcome in outcomes) / len(outcomes))


def _distribution(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    found = {name: percentile(values, q) for name, q in PERCENTILES.items()}
    return {"mean_s": _rounded(sum(values) / len(values)), **{k: _rounded(v) for k, v in found.items()},
            "max_s": _rounded(max(values))}  # fmt: skip


def _rounded(value: float) -> float:
    return round(value, 5)
