"""Popularity: chances are probabilities, long and short memories take turns, memory is bounded."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.caching.popularity import Popularity

keys = st.lists(st.sampled_from("abcdefgh"), max_size=200)


def asked(*requests: str, remembered: int = 100) -> Popularity:
    popularity = Popularity(remembered)
    for key in requests:
        popularity.count(key)
    return popularity


@given(keys)
def test_chances_add_up_to_one(requests: list[str]) -> None:
    """As long as nothing is forgotten the chances of all keys are a distribution."""
    popularity = asked(*requests)
    total = sum(popularity.chance(key) for key in popularity)
    assert total == pytest.approx(1.0 if requests else 0.0)


@given(keys, st.integers(1, 7))
def test_no_more_is_remembered_than_said(requests: list[str], remembered: int) -> None:
    """`count` returns what it forgot: never the newest key, and none of them has a chance."""
    popularity = Popularity(remembered)
    for key in requests:
        forgotten = popularity.count(key)
        assert len(popularity) <= remembered
        assert key not in forgotten
        assert all(popularity.chance(other) == 0.0 for other in forgotten)


def test_the_popular_outlast_those_asked_for_once() -> None:
    """A key asked for often is remembered when thousands come by once."""
    popularity = Popularity(64)
    for number in range(3000):
        popularity.count("favourite" if number % 20 == 0 else str(number))
    assert "favourite" in popularity
    assert popularity.chance("favourite") == pytest.approx(0.05, abs=0.03)


def test_in_a_steady_state_the_estimate_is_steady() -> None:
    """With independent requests the frequency is found, whatever came last."""
    rng = random.Random(1)
    popularity = asked(*rng.choices("abc", (0.6, 0.3, 0.1), k=4000))
    assert [round(popularity.chance(key), 1) for key in "abc"] == [0.6, 0.3, 0.1]


def test_a_shift_is_followed_within_a_dozen_requests() -> None:
    """After thousands of requests for other keys a new favourite is believed at once."""
    popularity = asked(*random.Random(1).choices("abc", k=4000), *("d" * 12))
    assert popularity.chance("d") > 0.5


def test_long_streams_do_not_overflow() -> None:
    """The shortest memory forgets a key entirely; its chance stays a number."""
    popularity = asked("old", *("new" for _ in range(5000)))
    assert 0.0 <= popularity.chance("old") < 0.01
    assert popularity.chance("new") == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("remembered", "half_lives"), [(0, (1.0,)), (1, ()), (1, (0.0,))])
def test_popularity_needs_room_and_memory(remembered: int, half_lives: tuple[float, ...]) -> None:
    """Without either there is nothing to count."""
    with pytest.raises(ValueError, match="popularity needs"):
        Popularity(remembered, half_lives)
