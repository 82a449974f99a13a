import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.traces.record import Record
from loadgen.traces.scale import Scaling, scale


def trace(*seconds: float) -> list[Record]:
    return [Record(1000 * at_s, {"prompt": str(index), "seed": index}) for index, at_s in enumerate(seconds)]


def times_s(records: list[Record]) -> list[float]:
    return [round(record.at_s, 9) for record in records]


def test_window_is_cut_and_begins_at_once() -> None:
    """A window keeps the requests from its start to before its end, the first due at once."""
    assert times_s(scale(trace(0, 5, 9, 10, 12), Scaling(window_s=(5, 10)), 0)) == [0, 4]


def test_days_are_laid_over_each_other() -> None:
    """Folding keeps every request at its time of day, in order, so that the rate rises and users stay apart."""
    folded = scale(trace(0, 10, 100, 103, 204), Scaling(fold_s=100), 0)
    assert times_s(folded) == [0, 0, 3, 4, 10]
    assert [record.payload["prompt"] for record in folded] == ["0", "2", "3", "4", "1"]


def test_repeats_have_seeds_of_their_own() -> None:
    """A repeated trace goes on after its mean gap, with other seeds, so that no cache answers."""
    repeated = scale(trace(0, 2, 4), Scaling(repeat=2), 0)
    assert times_s(repeated) == [0, 2, 4, 6, 8, 10]
    assert len({record.payload["seed"] for record in repeated}) == 6


def test_speed_and_rate() -> None:
    """A speed-up divides times; a rate chooses the speed-up that makes the mean rate so."""
    assert times_s(scale(trace(0, 1, 4), Scaling(speedup=4), 0)) == [0, 0.25, 1]
    assert times_s(scale(trace(0, 1, 4), Scaling(rate_rps=4.0), 0)) == [0, 0.125, 0.5]


def test_changes_have_an_order() -> None:
    """The window is in the trace's own seconds, however much the trace is then sped up."""
    assert times_s(scale(trace(0, 10, 20, 30), Scaling(window_s=(10, 31), speedup=10), 0)) == [0, 1, 2]


@given(st.lists(st.floats(0, 1e5), min_size=2, max_size=40), st.floats(0.01, 1.0), st.integers(0, 5))
def test_thinning_keeps_order_and_share(seconds: list[float], keep: float, seed: int) -> None:
    """A share of the requests stays, in order, the first due at once, the same for the same seed."""
    records = trace(*sorted(seconds))
    if round(keep * len(records)) == 0:
        return
    kept = scale(records, Scaling(keep=keep), seed)
    assert len(kept) == round(keep * len(records))
    assert kept[0].timestamp_ms == 0
    assert [r.timestamp_ms for r in kept] == sorted(r.timestamp_ms for r in kept)
    assert kept == scale(records, Scaling(keep=keep), seed)


def test_nothing_left() -> None:
    """An empty window, or a rate of requests that are all due at once, is an error."""
    with pytest.raises(ValueError, match="no request"):
        scale(trace(0, 1), Scaling(window_s=(5, 6)), 0)
    with pytest.raises(ValueError, match="all 2 requests"):
        scale(trace(3, 3), Scaling(rate_rps=1), 0)
