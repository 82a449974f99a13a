"""Messages about the ends of jobs: how often they are tried, and when."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.durable_jobs.outbox import JITTER, RETRY_AFTER_S, after_failure, rows_of
from lego_serve.core.durable_jobs.transitions import cancel
from tests.support.jobstore.jobs import HOOK, new_job


def test_a_message_is_tried_ten_times_over_three_days() -> None:
    """Under the same id each time, and then given up."""
    (row,) = rows_of(cancel(new_job(1, webhook=HOOK), 1000.0).record)
    waits = []
    now, tried = row.due_at, after_failure(row, row.due_at, 0.0)
    while tried is not None:
        assert (tried.id, tried.happened_at) == (row.id, 1000.0)
        waits.append(tried.due_at - now)
        now = tried.due_at
        tried = after_failure(tried, now, 0.0)
    assert waits == list(RETRY_AFTER_S)
    assert 2.9 < sum(waits) / 86_400 < 3.2


def test_chance_only_makes_a_wait_longer() -> None:
    """By a tenth at most."""
    (row,) = rows_of(cancel(new_job(1, webhook=HOOK), 1000.0).record)
    late = after_failure(row, 1000.0, 1.0)
    assert late is not None
    assert late.due_at == 1005.5


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1e6)), min_size=9, max_size=12))
def test_whatever_chance_and_delays_the_schedule_holds(tries: list[tuple[float, float]]) -> None:
    """No wait is shorter than it should be, none a tenth longer, and after the tenth try there is none."""
    job = new_job(1, webhook=HOOK, traceparent="00-1-1-01")
    (first,) = rows_of(cancel(job, 1000.0).record)
    row, now = first, first.due_at
    for number, (chance, late_s) in enumerate(tries):
        now += late_s  # the gateway was away
        later = after_failure(row, now, chance)
        if number >= len(RETRY_AFTER_S):
            assert later is None
            continue
        assert later is not None
        wait_s = later.due_at - now
        assert RETRY_AFTER_S[number] - 1e-6 <= wait_s <= RETRY_AFTER_S[number] * (1 + JITTER) + 1e-6
        assert (later.id, later.url, later.happened_at, later.traceparent) == (
            first.id,
            first.url,
            first.happened_at,
            "00-1-1-01",
        )
        row, now = later, later.due_at
