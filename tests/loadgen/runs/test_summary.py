import pytest

from loadgen.runs.outcome import Outcome
from loadgen.runs.summary import summarise, waited_s


def outcome(due_s: float, done_s: float, *, slo_s: float | None = None, error: str | None = None) -> Outcome:
    return Outcome(due_s, due_s + 0.1, done_s, 503 if error else 200, error, "w", "generation", "8x8", slo_s)


def test_latency_counts_from_when_due_and_service_from_when_sent() -> None:
    """A client that sends late does not make the server look faster, and both times are told."""
    found = summarise([outcome(0.0, 2.0), outcome(1.0, 4.0)])
    latency, service = found["latency"], found["service"]
    assert isinstance(latency, dict)
    assert isinstance(service, dict)
    assert latency["mean_s"] == pytest.approx(2.5)
    assert service["mean_s"] == pytest.approx(2.4)
    assert found["client"] == {"late_p99_s": 0.1, "is_late": True}


def test_goodput_counts_what_met_its_objective() -> None:
    """Goodput and attainment leave out what was late or never answered; throughput counts all answers."""
    outcomes = [outcome(0.0, 1.0, slo_s=2.0), outcome(0.0, 4.0, slo_s=2.0), outcome(0.0, 0.5, slo_s=2.0, error="full")]
    found = summarise(outcomes)
    assert found["throughput_rps"] == pytest.approx(0.5)
    assert found["goodput_rps"] == pytest.approx(0.25)
    assert found["attainment"] == pytest.approx(1 / 3, abs=1e-4)


def test_dropped_requests_waited_to_the_end() -> None:
    """A refusal does not shorten the wait: its client waited to the end, or at least for its objective."""
    outcomes = [outcome(0.0, 5.0), outcome(1.0, 1.1, slo_s=9.0, error="full"), outcome(2.0, 2.1, error="full")]
    assert waited_s(outcomes) == pytest.approx([5.0, 9.0, 3.0])


def test_without_objectives_there_is_no_attainment() -> None:
    """No objective, no attainment; a single request has no offered rate."""
    found = summarise([outcome(0.0, 1.0)])
    assert found["attainment"] is None
    assert found["offered_rps"] is None


def test_nothing_answered() -> None:
    """A run without an answer has no latencies, and says why."""
    found = summarise([outcome(0.0, 1.0, error="down")])
    assert found["latency"] is None
    assert found["first_error"] == "down"
