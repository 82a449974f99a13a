"""The ledger: never above its bytes, never an eviction of what is in use, and what is kept is what saves most."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_serve.core.caching.ledger import CacheLedger, PrefetchCandidate, Reservation, ReservationRefused

KEYS = "abcdef"
actions = st.lists(
    st.tuples(
        st.sampled_from(("touch", "reserve", "optional", "commit", "fail", "pin", "release", "drop", "prefetch")),
        st.sampled_from(KEYS),
        st.integers(0, 70),
        st.floats(0, 10),
    ),
    max_size=150,
)


def loaded(budget: int = 100, remembered: int = 100, **sizes: int) -> CacheLedger:
    """A ledger with entries of one second's load each, in this order."""
    ledger = CacheLedger(budget, remembered)
    for key, size in sizes.items():
        use(ledger, key, size)
    return ledger


def use(
    ledger: CacheLedger, key: str, size: int = 50, load_s: float = 1.0, now: float = 0.0
) -> Reservation | ReservationRefused:
    """Ask for an entry as a server does; return the ledger's decision."""
    if ledger.touch(key, now):
        return Reservation()
    decision = ledger.reserve(key, size, load_s)
    if isinstance(decision, Reservation):
        ledger.commit(key)
    return decision


def act(ledger: CacheLedger, action: str, key: str, size: int, number: float) -> object:
    """Do one thing, if it may be done in the ledger's state."""
    loading, held = ledger.is_loading(key), ledger.is_loading(key) or key in ledger
    if action == "touch":
        return ledger.touch(key, number)
    if action in ("reserve", "optional"):
        return ledger.reserve(key, size, number, optional=action == "optional")
    if action == "prefetch":
        return ledger.prefetch_candidates(number)
    if action == "commit" and loading:
        ledger.commit(key, load_s=number)
    if action == "pin" and held:
        ledger.pin(key)
    if action in ("fail", "drop", "release") and held:
        try:
            (ledger.release if action == "release" else ledger.drop)(key)
        except ValueError as refused:
            return str(refused)
    return None


@given(actions, st.integers(0, 120), st.integers(1, 4))
def test_the_account_is_right_after_anything(
    done: list[tuple[str, str, int, float]], budget: int, remembered: int
) -> None:
    """Bytes never exceed the budget, what is pinned or loading is never evicted, and `check` finds nothing."""
    ledger = CacheLedger(budget, remembered)
    pins = dict.fromkeys(KEYS, 0)
    for action, key, size, number in done:
        before = {other for other in KEYS if ledger.is_loading(other) or pins[other]}
        held = key in ledger or ledger.is_loading(key)
        outcome = act(ledger, action, key, size, number)
        if held and action == "pin":
            pins[key] += 1
        if action == "release" and held and outcome is None:
            pins[key] -= 1
        if isinstance(outcome, Reservation):
            assert before.isdisjoint(outcome.evict)
        assert all(other in ledger or ledger.is_loading(other) for other in KEYS if pins[other])
        assert ledger.pinned_bytes <= ledger.used_bytes <= ledger.budget_bytes
        ledger.check()


@settings(max_examples=30)
@given(actions)
def test_the_same_calls_have_the_same_answers(done: list[tuple[str, str, int, float]]) -> None:
    """Nothing is left to chance or to the order of a hash."""
    one, other = CacheLedger(100), CacheLedger(100)
    assert [act(one, *step) for step in done] == [act(other, *step) for step in done]
    assert list(one) == list(other)


@given(actions)
def test_a_refusal_changes_nothing(done: list[tuple[str, str, int, float]]) -> None:
    """What was resident stays so, and no byte is held."""
    ledger = CacheLedger(100)
    for step in done:
        before = (list(ledger), ledger.used_bytes)
        if isinstance(act(ledger, *step), ReservationRefused):
            assert (list(ledger), ledger.used_bytes) == before


@given(actions, st.integers(0, 120), st.integers(1, 6))
def test_prefetch_candidates_are_absent_and_can_be_reserved(
    done: list[tuple[str, str, int, float]], budget: int, limit: int
) -> None:
    """All of them fit together without an eviction, or there is one that is worth more than what it evicts."""
    ledger = CacheLedger(budget)
    for step in done:
        act(ledger, *step)
    candidates = ledger.prefetch_candidates(10.0, limit)
    held = {key for key in KEYS if key in ledger or ledger.is_loading(key)}
    assert len({candidate.key for candidate in candidates} - held) == len(candidates) <= limit
    reservations = [ledger.reserve(each.key, each.size, each.load_s, optional=True) for each in candidates]
    assert all(isinstance(each, Reservation) and (not each.evict or len(candidates) == 1) for each in reservations)


def test_bytes_are_held_from_the_reservation_on() -> None:
    """What loads counts before it is there, and is not ready for use."""
    ledger = CacheLedger(100)
    assert ledger.reserve("a", 60, 1.0) == Reservation()
    assert (ledger.used_bytes, "a" in ledger, ledger.is_loading("a")) == (60, False, True)
    assert ledger.reserve("b", 60, 1.0) == ReservationRefused("in_use")
    ledger.commit("a")
    assert "a" in ledger


def test_a_second_load_of_the_same_entry_needs_nothing() -> None:
    """Two requests that miss at once share one reservation."""
    ledger = CacheLedger(100)
    ledger.reserve("a", 60, 1.0)
    assert ledger.reserve("a", 60, 1.0) == Reservation()
    assert ledger.used_bytes == 60


def test_less_than_predicted_frees_the_rest() -> None:
    """A smaller entry gives bytes back; a larger one is an error of the prediction."""
    ledger = CacheLedger(100)
    ledger.reserve("a", 60, 1.0)
    with pytest.raises(ValueError, match="at most the bytes"):
        ledger.commit("a", size=61)
    ledger.commit("a", size=40)
    assert ledger.used_bytes == 40


def test_a_failed_load_leaves_nothing() -> None:
    """Its bytes are free again."""
    ledger = CacheLedger(100)
    ledger.reserve("a", 60, 1.0)
    ledger.drop("a")
    assert (ledger.used_bytes, "a" in ledger, ledger.is_loading("a")) == (0, False, False)


def test_what_is_larger_than_the_budget_is_refused_by_name() -> None:
    """Nothing is evicted for it."""
    ledger = loaded(a=50)
    assert ledger.reserve("b", 101, 1.0) == ReservationRefused("too_large")
    assert "a" in ledger


def test_an_entry_in_use_stays() -> None:
    """The pinned one survives although it is worth less; released, it goes."""
    ledger = loaded(a=50, b=50)
    use(ledger, "b")
    ledger.pin("a")
    ledger.pin("a")
    ledger.release("a")
    assert ledger.reserve("c", 50, 1.0) == Reservation(("b",))
    ledger.commit("c")
    ledger.release("a")
    ledger.touch("c", 0.0)
    assert ledger.reserve("d", 50, 1.0) == Reservation(("a",))


def test_pins_are_counted() -> None:
    """An unpinned entry cannot be released, a pinned one not dropped."""
    ledger = loaded(a=50)
    with pytest.raises(ValueError, match="not pinned"):
        ledger.release("a")
    ledger.pin("a")
    with pytest.raises(ValueError, match="in use"):
        ledger.drop("a")


def test_the_quick_to_load_goes_before_the_slow() -> None:
    """Asked for equally often and equally large, the one that costs more to bring back stays."""
    ledger = CacheLedger(100)
    for _ in range(20):
        use(ledger, "slow", load_s=9.0)
        use(ledger, "quick", load_s=1.0)
    assert ledger.reserve("new", 50, 1.0) == Reservation(("quick",))


def test_the_large_goes_before_the_small() -> None:
    """Of two with the same load time and popularity the larger one makes room."""
    ledger = CacheLedger(100)
    for _ in range(20):
        use(ledger, "small", 10)
        use(ledger, "large", 80)
    assert ledger.reserve("new", 50, 1.0) == Reservation(("large",))


def test_nothing_is_evicted_needlessly() -> None:
    """When one large entry has to go, the small ones that would have gone before it stay."""
    ledger = loaded(a=20, b=20, c=60)
    for _ in range(3):
        use(ledger, "c", 60, load_s=1.0)
    assert ledger.reserve("new", 60, 1.0) == Reservation(("c",))


def test_one_asked_for_once_goes_first() -> None:
    """A newcomer takes the place of the last newcomer, not of a favourite."""
    ledger = CacheLedger(100)
    for number in range(30):
        use(ledger, "favourite")
        use(ledger, f"once{number}")
    assert "favourite" in ledger


def test_an_optional_load_does_not_displace_what_is_worth_more() -> None:
    """It is refused, unless it is worth more itself or there is room."""
    ledger = CacheLedger(100)
    for _ in range(20):
        use(ledger, "a")
        use(ledger, "b")
    ledger.touch("once", 0.0)
    assert ledger.reserve("once", 50, 1.0, optional=True) == ReservationRefused("not_worth")
    assert ledger.reserve("once", 50, 1000.0, optional=True) == Reservation(("a",))


def test_a_former_favourite_comes_back_as_one() -> None:
    """Evicted under pressure, it is worth more than newcomers when it is asked for again."""
    ledger = CacheLedger(100)
    for _ in range(50):
        use(ledger, "favourite", 100)
    ledger.drop("favourite")
    for key in ("a", "b"):
        use(ledger, key)
    assert ledger.benefit_s("favourite") > ledger.benefit_s("a")
    assert isinstance(use(ledger, "favourite"), Reservation)
    use(ledger, "c")
    assert "favourite" in ledger


def test_what_is_forgotten_takes_no_memory() -> None:
    """A thousand keys asked for once leave no more behind than is remembered."""
    ledger = CacheLedger(100, remembered=16)
    for number in range(1000):
        use(ledger, str(number))
    assert len(ledger._entries) <= 16 + len(list(ledger))
    ledger.check()


def test_a_popular_absentee_is_worth_loading_ahead() -> None:
    """With room it is named, with its size and load time; a swap needs a clear advantage."""
    ledger = CacheLedger(100)
    for second in range(50):
        use(ledger, "favourite", 60, 2.0, now=second)
    ledger.drop("favourite")
    assert ledger.prefetch_candidates(50.0) == [PrefetchCandidate("favourite", 60, 2.0)]
    use(ledger, "once", 90, now=50.0)
    assert ledger.prefetch_candidates(51.0) == [PrefetchCandidate("favourite", 60, 2.0)]
    assert ledger.reserve("favourite", 60, 2.0, optional=True) == Reservation(("once",))


def test_what_is_loaded_ahead_fits_together() -> None:
    """All that are named have room at once."""
    ledger = CacheLedger(100)
    for second in range(40):
        for key in "abc":
            ledger.touch(key, float(second))
            if isinstance(ledger.reserve(key, 40, 1.0), Reservation) and ledger.is_loading(key):
                ledger.commit(key)
    for key in list(ledger):
        ledger.drop(key)
    chosen = ledger.prefetch_candidates(40.0)
    assert len(chosen) == 2
    assert sum(entry.size for entry in chosen) <= 100


def test_nothing_is_loaded_ahead_when_nobody_asks() -> None:
    """Before the first requests, and long after the last, no load is expected to be used soon."""
    ledger = CacheLedger(100)
    assert ledger.prefetch_candidates(0.0) == []
    for second in range(50):
        use(ledger, "favourite", now=second)
    ledger.drop("favourite")
    assert ledger.prefetch_candidates(1e6) == []
