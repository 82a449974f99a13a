"""The fluid bound."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.sim.bound import most_in_time

GAPS = st.lists(st.tuples(st.floats(0, 2), st.floats(0.1, 3), st.floats(0, 2)), min_size=1, max_size=7)


@given(GAPS)
def test_it_is_the_best_of_all_subsets(jobs: list[tuple[float, float, float]]) -> None:
    """No subset of the jobs, served in order of arrival, has more jobs that all end in time."""
    release, deadline, now, latest = [], [], 0.0, 0.0
    for gap, work, slack in jobs:
        now += gap
        latest = max(latest, now + work + slack)
        release.append(now)
        deadline.append(latest)
    work = [each[1] for each in jobs]

    def fits(subset: tuple[int, ...]) -> bool:
        free = 0.0
        for index in subset:
            free = max(free, release[index]) + work[index]
            if free > deadline[index] + 1e-9:
                return False
        return True

    numbers = range(len(jobs))
    best = max(size for size in range(len(jobs) + 1) if any(fits(each) for each in combinations(numbers, size)))
    assert most_in_time(release, deadline, work, 1.0) == best


def test_a_faster_machine_ends_more() -> None:
    """Three jobs of two seconds that must end within two: one machine ends one, a machine of speed three all."""
    assert most_in_time([0, 0, 0], [2, 2, 2], [2, 2, 2], 1.0) == 1
    assert most_in_time([0, 0, 0], [2, 2, 2], [2, 2, 2], 3.0) == 3
