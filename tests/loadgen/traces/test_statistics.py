from typing import Any

from loadgen.traces.record import Record
from loadgen.traces.statistics import describe


def described(*seconds: float) -> dict[str, Any]:
    return describe([Record(1000 * at_s, {"model": "m"}) for at_s in seconds])


def test_even_arrivals() -> None:
    """Even gaps have no spread, and every window has equally many requests."""
    found = described(*range(40))
    assert found["rate_rps"] == 1.0
    assert found["gaps"]["cv"] == 0.0
    assert found["windows"]["1s"] == {"dispersion": 0.0, "peak": 1, "peak_over_mean": 1.0}


def test_arrivals_in_pairs() -> None:
    """Of requests in pairs half the gaps are none, which is a CV of one, and windows hold two or none."""
    found = described(*(2 * (index // 2) for index in range(41)))
    assert found["gaps"]["zero_share"] == 0.5
    assert found["gaps"]["cv"] == 1.0
    assert found["windows"]["1s"]["peak"] == 2


def test_single_requests_and_bursts_have_no_rate() -> None:
    """One request, or several due at once, have a rate of zero rather than an error."""
    for found in (described(0.0), described(0.0, 0.0)):
        assert found["rate_rps"] == found["gaps"]["cv"] == 0.0
        assert found["windows"] == {}
