"""Routing: which replica a call goes to."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.routing import Outstanding, allowed, denoising_work, quieter


def test_a_call_keeps_away_from_replicas_unless_there_are_no_others() -> None:
    """Avoiding every one avoids none."""
    assert allowed(["a", "b"], {"a"}) == ["b"]
    assert allowed(["a", "b"], {"a", "b"}) == ["a", "b"]


def test_suspects_share_one_replica() -> None:
    """The first by id, for all of them."""
    assert quieter(["b", "a"], True) == ["a"]
    assert quieter(["b", "a"], False) == ["b", "a"]


def test_work_is_pixels_times_passes() -> None:
    """Guidance doubles it where there is a negative prompt; images add up."""
    plain = {"width": 128, "height": 96, "steps": 20, "n": 2, "guidance": 1.0, "negative": {}}
    assert denoising_work(plain) == 128 * 96 * 20 * 2
    assert denoising_work(plain | {"guidance": 4.0}) == 2 * denoising_work(plain)
    distilled = {name: value for name, value in plain.items() if name != "negative"}
    assert denoising_work(distilled | {"guidance": 4.0}) == denoising_work(plain)


def test_the_least_loaded_replicas_are_found() -> None:
    """By work, not by count; a call that moved counts where it is, and one that ended nowhere."""
    hand = Outstanding()
    hand.place("large", "a", 10.0)
    hand.place("small", "b", 1.0)
    hand.place("other", "b", 1.0)
    assert hand.least(["a", "b"]) == ["b"]
    assert hand.least(["a", "b", "c"]) == ["c"]
    hand.place("large", "b", 10.0)
    assert hand.least(["a", "b"]) == ["a"]
    hand.end("large")
    hand.end("never placed")
    assert (hand.of("a"), hand.of("b")) == (0, 2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 9)), max_size=30))
def test_placing_on_the_least_loaded_keeps_them_within_one_call(calls: list[tuple[str, float]]) -> None:
    """Without ends, no replica is ahead of another by more than the largest call."""
    hand = Outstanding()
    for number, (_, work) in enumerate(calls):
        hand.place(str(number), hand.least(["a", "b", "c"])[0], work)
    loads = [hand.of(replica) for replica in "abc"]
    assert max(loads) - min(loads) <= max((work for _, work in calls), default=0) + 1e-9
