"""Which processes hang, by the answers that they leave owing."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.silences import AGAIN_S, ALONE_S, LOOK_MOST_S, PATIENCE_S, Silences

TICK_S = 0.5


def silent_for(
    silences: Silences, seconds: float, answering: frozenset[int], pids: range, since: float
) -> list[tuple[float, int]]:
    """Look twice a second and ask whoever is due; those that answer do so by the next look.  Returns who hung, when."""
    found = []
    for tick in range(round(seconds / TICK_S)):
        now = since + TICK_S * tick
        for pid in answering:
            silences.answered(pid, now)
        found += [(TICK_S * tick, pid) for pid in silences.look(pids, now)]
        for pid in silences.due(now):
            silences.asked(pid)
    return found


@given(st.integers(2, 5), st.integers(0, 4), st.floats(0, 1e6))
def test_one_that_is_silent_beside_others_hangs_after_the_patience(count: int, victim: int, since: float) -> None:
    """It alone, and not before."""
    pids, victim = range(count), victim % count
    silences = Silences()
    silent_for(silences, 5, frozenset(pids), pids, since)
    found = silent_for(silences, PATIENCE_S + 10, frozenset(pids) - {victim}, pids, since + 5)
    assert {pid for _, pid in found} == {victim}
    assert PATIENCE_S - 1 <= found[0][0] <= PATIENCE_S + 1


@given(st.integers(1, 5), st.floats(0, 1e6))
def test_where_nobody_answers_all_hang_later(count: int, since: float) -> None:
    """Since that may be the machine's fault."""
    silences, pids = Silences(), range(count)
    silent_for(silences, 5, frozenset(pids), pids, since)
    found = silent_for(silences, ALONE_S + 5, frozenset(), pids, since + 5)
    assert {pid for _, pid in found} == set(pids)
    assert ALONE_S - 1 <= found[0][0] <= ALONE_S + 1


@given(st.lists(st.floats(0.01, 3600), min_size=1, max_size=40))
def test_late_looks_count_for_little(gaps: list[float]) -> None:
    """A supervisor that was held up, or whose machine slept, counts a second a look at most."""
    silences, now = Silences(), 0.0
    silences.look([1], now)
    silences.asked(1)
    for looks, gap in enumerate(gaps, 1):
        now += gap
        counted_s = sum(min(each, LOOK_MOST_S) for each in gaps[:looks])
        is_hung = bool(silences.look([1], now))
        assert is_hung == (counted_s >= ALONE_S) or abs(counted_s - ALONE_S) < 1e-6


@given(st.lists(st.booleans(), max_size=60), st.floats(1, PATIENCE_S - 1))
def test_one_that_answers_within_the_patience_never_hangs(answers: list[bool], after_s: float) -> None:
    """However slowly, beside one that is quick."""
    silences, owed_s, now = Silences(), 0.0, 0.0
    for is_quick in answers:
        silences.answered(2, now)
        assert silences.look([1, 2], now) == []
        silences.asked(1)
        owed_s = 0.0
        while owed_s < (0.5 if is_quick else after_s):
            now, owed_s = now + 0.5, owed_s + 0.5
            silences.answered(2, now)
            assert silences.look([1, 2], now) == []
        silences.answered(1, now)


@given(st.integers(1, 9))
def test_who_is_not_listening_owes_nothing(looks: int) -> None:
    """Before its first answer, and while it stops."""
    silences = Silences()
    for tick in range(100 * looks):
        assert silences.look([1], tick) == []
        for pid in silences.due(tick):
            silences.absent(pid)


def test_one_that_has_answered_is_asked_again_after_a_while() -> None:
    """And what was known of one that is gone is forgotten, should its number come back."""
    silences = Silences()
    silences.look([1], 0.0)
    assert silences.due(0.0) == [1]
    silences.asked(1)
    silences.answered(1, 0.5)
    assert silences.due(0.6) == []
    assert silences.due(0.5 + AGAIN_S) == [1]
    silences.asked(1)
    for tick in range(9):
        silences.look([1], 2.0 + tick)
    silences.look([], 11.0)
    assert silences.look([1], 100.0) == []
    assert silences.due(100.0) == [1]
