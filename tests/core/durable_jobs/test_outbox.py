"""Messages about the ends of jobs: how often they are tried, and when."""

from lego_serve.core.durable_jobs.outbox import RETRY_AFTER_S, after_failure, rows_of
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
