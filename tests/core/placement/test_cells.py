"""Cells of shared workers."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.placement.cells import MOST_WORKERS, cell_count, cell_of, less_busy


def test_up_to_64_workers_are_one_cell_and_more_are_several_of_about_48() -> None:
    """Few of which are larger than 64."""
    assert [cell_count(workers) for workers in (1, 64, 65, 480, 1000)] == [1, 1, 2, 10, 21]
    sizes = Counter(cell_of(f"shared.workers#{number:08x}", 21) for number in range(1000))
    assert len(sizes) == 21
    assert sum(size > MOST_WORKERS for size in sizes.values()) <= 2


@given(st.text(), st.lists(st.one_of(st.none(), st.floats(0.0, 9.0)), min_size=1, max_size=9))
def test_a_job_goes_to_the_less_busy_of_two_cells_and_to_a_silent_one_only_where_both_are(
    job_id: str, work_s: list[float | None]
) -> None:
    """Always to the same two."""
    chosen = less_busy(job_id, work_s)
    others = {less_busy(job_id, [0.0 if each == one else None for each in range(len(work_s))]) for one in range(9)}
    assert chosen in others
    assert len(others) <= 2
    speaking = [work_s[each] for each in others if work_s[each] is not None]
    assert not speaking or work_s[chosen] == min(speaking)


def test_jobs_are_spread_over_all_cells() -> None:
    """Where all are as busy."""
    asked = Counter(less_busy(f"job {number}", [0.0] * 5) for number in range(1000))
    assert min(asked.values()) > 120
