from hypothesis import given
from hypothesis import strategies as st

from loadgen.baselines.lru_ledger import LruLedger


def test_least_recently_used_goes_first() -> None:
    """A use makes an entry young again."""
    kept = LruLedger(20)
    assert kept.admit("a", 10, ["a"]) == kept.admit("b", 10, ["b"]) == []
    assert kept.use("a")
    assert kept.admit("c", 10, ["c"]) == ["b"]
    assert not kept.use("b")


def test_what_a_request_needs_stays() -> None:
    """Two that are used together do not displace each other, whatever they take."""
    kept = LruLedger(10)
    assert kept.admit("a", 10, ["a", "b"]) == []
    assert kept.admit("b", 10, ["a", "b"]) == []
    assert kept.used_bytes == 20
    assert kept.admit("c", 10, ["c"]) == ["a", "b"]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 9)), max_size=60), st.integers(1, 30))
def test_never_above_its_bytes_without_need(asked: list[tuple[int, int]], max_bytes: int) -> None:
    """After each request there are at most so many bytes, or only what that request needs."""
    kept = LruLedger(max_bytes)
    for number, size in asked:
        name = str(number)
        if not kept.use(name):
            assert name not in kept.admit(name, size, [name])
        assert name in kept
        assert kept.used_bytes <= max_bytes or kept.used_bytes <= 9
