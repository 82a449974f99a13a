"""The bytes of bodies that are held: in all, of one owner, and how long who finds no room is asked to wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.errors import CapacityError
from lego_serve.gateway.requests.body_bytes import BodyBytes


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 300), st.booleans()), max_size=80))
def test_there_is_always_room_for_another_owner(steps) -> None:
    """Whatever is held is less than the limit, only what is over a share is refused, and nothing is left at the end."""
    buffer = BodyBytes(1_000)
    bodies = []
    held: dict[str, int] = {}
    for owner, count, ends in steps:
        body = buffer.begin(owner)
        bodies.append(body)
        try:
            buffer.take(body, count)
        except CapacityError:
            assert count + sum(held.values()) > 1_000 or held.get(owner, 0) + count > 3 * (
                1_000 - sum(held.values()) - count
            )
            count = 0
        held[owner] = held.get(owner, 0) + count
        assert sum(held.values()) < 1_000
        if ends:
            buffer.end(body)
            held[owner] -= count
    for body in bodies:
        buffer.end(body)
    buffer.take(buffer.begin("another"), 750)


@pytest.mark.parametrize(("age", "wait"), [(0.1, 1.0), (12.0, 12.0), (500.0, 60.0)])
def test_the_wait_is_as_long_as_the_bytes_have_been_held(age: float, wait: float) -> None:
    """A second at least and a minute at most; a body of few bytes hardly counts."""
    clock = Clock()
    buffer = BodyBytes(1_000, clock)
    buffer.take(buffer.begin("a"), 700)
    clock.now = age
    small = buffer.begin("a")
    buffer.take(small, 1)
    with pytest.raises(CapacityError, match=f"try again in {wait:.0f} s") as raised:
        buffer.take(buffer.begin("a"), 100)
    assert raised.value.retry_after_s == pytest.approx(wait, rel=0.01)


def test_an_owner_is_told_its_own_share() -> None:
    """The message has the bytes that it would hold, those for all, and the share."""
    buffer = BodyBytes(1_000)
    buffer.take(buffer.begin("a"), 750)
    with pytest.raises(CapacityError, match="would hold 751 of the 1000 bytes there are for all, more than 3 times"):
        buffer.take(buffer.begin("a"), 1)
