"""Which evicted models' weights stay in host memory, against a list that is kept by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.caching.host_ledger import HostLedger

KEYS = st.sampled_from("abcdef")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("evict"), KEYS, st.integers(0, 12), st.integers(0, 9)),
        st.tuples(st.just("load"), KEYS, st.just(0), st.just(0)),
        st.tuples(st.just("want"), KEYS, st.just(0), st.integers(0, 9)),
    ),
    max_size=40,
)


def test_the_least_recently_used_go_first_and_no_more_of_them_than_must() -> None:
    """Whenever they were evicted."""
    ledger = HostLedger(10)
    assert ledger.admit("a", 4, used_s=3.0) == ()
    assert ledger.admit("b", 4, used_s=1.0) == ()
    assert ledger.admit("c", 2, used_s=2.0) == ()
    assert ledger.admit("d", 3, used_s=4.0) == ("b",)
    assert ledger.used_bytes == 9
    assert ledger.admit("e", 5, used_s=5.0) == ("c", "a")
    assert ("d" in ledger, "a" in ledger, ledger.bytes_of("d"), ledger.bytes_of("a")) == (True, False, 3, 0)


def test_what_was_used_later_stays_and_so_does_everything_where_an_entry_finds_no_room() -> None:
    """It would be read again sooner than the one that is to come."""
    ledger = HostLedger(10)
    ledger.admit("old", 5, used_s=1.0)
    ledger.admit("new", 5, used_s=9.0)
    assert ledger.admit("between", 6, used_s=5.0) is None
    assert ledger.admit("too large", 11, used_s=10.0) is None
    assert "old" in ledger
    assert "new" in ledger
    assert ledger.admit("between", 5, used_s=5.0) == ("old",)


def test_what_is_wanted_next_is_not_dropped_for_what_makes_room_for_it() -> None:
    """Its copy is used last of all."""
    ledger = HostLedger(4)
    ledger.admit("a", 4, used_s=1.0)
    ledger.touch("a", 3.0)
    ledger.touch("b", 3.0)
    assert ledger.admit("b", 4, used_s=2.0) is None
    assert ledger.bytes_of("a") == 4


def test_what_has_gone_back_to_its_device_takes_nothing() -> None:
    """And may come again; one that was never there is no mistake."""
    ledger = HostLedger(4)
    ledger.admit("a", 4, used_s=1.0)
    ledger.take("a")
    ledger.take("b")
    assert ledger.used_bytes == 0
    assert ledger.admit("a", 4, used_s=0.0) == ()


def test_no_budget_keeps_nothing_and_mistakes_are_refused() -> None:
    """But for what takes no bytes."""
    assert HostLedger(0).admit("a", 1, used_s=1.0) is None
    with pytest.raises(ValueError, match="budget"):
        HostLedger(-1)
    ledger = HostLedger(1)
    with pytest.raises(ValueError, match="negative"):
        ledger.admit("a", -1, used_s=1.0)
    ledger.admit("a", 1, used_s=1.0)
    with pytest.raises(ValueError, match="once"):
        ledger.admit("a", 1, used_s=1.0)


@given(budget=st.integers(0, 20), steps=STEPS)
def test_the_budget_holds_and_whatever_is_kept_was_used_after_what_went_for_it(
    budget: int, steps: list[tuple[str, str, int, int]]
) -> None:
    """Through any evictions and loads; what went could not have stayed, and what was refused could not have come."""
    ledger, kept = HostLedger(budget), dict[str, tuple[int, int]]()  # bytes and last use
    for what, key, size, used_s in steps:
        if what == "load":
            ledger.take(key)
            kept.pop(key, None)
        elif what == "want":
            ledger.touch(key, float(used_s))
            kept |= {key: (kept[key][0], used_s)} if key in kept else {}
        elif key not in kept:
            before = sum(bytes_ for bytes_, _ in kept.values())
            gone = ledger.admit(key, size, float(used_s))
            older = sum(bytes_ for bytes_, last in kept.values() if last <= used_s)
            assert (gone is None) == (before - older + size > budget)
            if gone is not None:
                freed = [kept.pop(each) for each in gone]
                assert [last for _, last in freed] == sorted(last for _, last in freed)
                assert all(last <= used_s for _, last in freed)
                others_last = [last for _, last in kept.values()]
                assert not freed or min(others_last, default=used_s) >= freed[-1][1]
                assert not freed or before - sum(b for b, _ in freed[:-1]) + size > budget
                kept[key] = (size, used_s)
        assert {each for each in "abcdef" if each in ledger} == set(kept)
        assert ledger.used_bytes == sum(bytes_ for bytes_, _ in kept.values()) <= budget
        assert all(ledger.bytes_of(each) == bytes_ for each, (bytes_, _) in kept.items())
