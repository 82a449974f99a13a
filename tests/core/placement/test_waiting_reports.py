"""What gateways tell of the jobs that wait there."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.placement.waiting_reports import HEARD_S, WaitingReport, WaitingReports

APPS = ("shared.workers", "other.workers")
TOLD = st.dictionaries(st.sampled_from(["g1", "g2", "g3"]), st.dictionaries(st.sampled_from(APPS), st.integers(1, 99)))


@given(st.lists(TOLD, min_size=1, max_size=20), st.sampled_from(APPS))
def test_what_counts_is_what_the_gateways_that_are_heard_said_last(told: list[dict], app: str) -> None:
    """Each report is another one, and crosses as text; a gateway that has taken its word back counts no longer."""
    reports = WaitingReports()
    for number, jobs in enumerate(told):
        texts = {name: WaitingReport(number, waiting).to_json() for name, waiting in jobs.items()}
        heard = {name: WaitingReport.from_json(text) for name, text in texts.items()}
        assert reports.hear(heard, float(number)) == frozenset()
        assert reports.of(app, number + HEARD_S) == sum(waiting.get(app, 0) for waiting in jobs.values())
        assert reports.of(app, number + HEARD_S + 0.1) == 0


@given(st.lists(st.floats(-30, 30), max_size=20))
def test_a_report_that_does_not_change_is_that_of_a_gateway_that_died(gaps: list[float]) -> None:
    """Whatever the clock does: silent ones are named, and count for nothing."""
    reports, now, report = WaitingReports(), 100.0, WaitingReport(7, {APPS[0]: 4})
    assert reports.hear({"g1": report}, now) == frozenset()
    for gap in gaps:
        now += gap
        is_silent = abs(now - 100.0) > HEARD_S
        assert reports.hear({"g1": report}, now) == (frozenset({"g1"}) if is_silent else frozenset())
        assert reports.of(APPS[0], now) == (0 if is_silent else 4)
