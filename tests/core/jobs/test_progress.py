"""The reporter: what is told of a lane, and how often."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.jobs.progress import BEGUN, MESSAGES_A_SECOND, ProgressMessage, ProgressThrottle, StreamOptions


def told(stream: StreamOptions, steps: int, step_s: float, every: int = 0) -> list[tuple[int, ProgressMessage]]:
    """The messages of a lane whose steps take so long."""
    throttle = ProgressThrottle(stream, steps, every)
    said = ((step, throttle.due(step, step * step_s)) for step in range(1, steps + 1))
    return [(step, due) for step, due in said if due is not None]


def test_where_nobody_listens_it_is_told_once_that_a_lane_has_begun() -> None:
    """For the coordinator alone; a lane of one step has ended by then."""
    assert told(StreamOptions(), 28, 1.0) == [(1, BEGUN)]
    assert told(StreamOptions(), 1, 1.0) == []
    going_on = ProgressThrottle(StreamOptions(3), 100, 50, first_step=55)
    assert [going_on.due(step, 0.01 * step) for step in (56, 57)] == [BEGUN, None]


def test_what_is_due_after_the_first_step_says_it_too() -> None:
    """There is one message, not two."""
    assert told(StreamOptions(steps=True), 28, 0.01)[0] == (1, ProgressMessage(False, False, True))
    assert told(StreamOptions(), 28, 0.01, every=1)[0] == (1, ProgressMessage(False, True, False))


def test_previews_lie_evenly_before_the_end() -> None:
    """Three previews of twenty slow steps come after a quarter, a half and three quarters."""
    assert [step for step, due in told(StreamOptions(3), 20, 1.0) if due.preview] == [5, 10, 15]
    assert [due for _, due in told(StreamOptions(3), 20, 1.0) if not due.preview] == [BEGUN]


def test_checkpoints_come_every_so_many_steps() -> None:
    """Every fifth, however fast the steps, so that a lost lane loses five at most."""
    for step_s in (0.5, 0.01):
        assert [step for step, due in told(StreamOptions(), 20, step_s, every=5) if due.checkpoint] == [5, 10, 15]


def test_a_checkpoint_alone_is_no_report() -> None:
    """It is for the coordinator; the client hears of steps when it asked for them and is due."""
    assert not any(due.report for _, due in told(StreamOptions(), 20, 0.01, every=5))
    assert [step for step, due in told(StreamOptions(steps=True), 60, 0.01, every=5) if due.report] == [1, 26, 51]


def test_a_lane_that_goes_on_does_not_send_its_previews_again() -> None:
    """Those before the checkpoint were sent by the replica that is gone."""
    throttle = ProgressThrottle(StreamOptions(3), 100, 5, first_step=55)
    assert [step for step in range(56, 100) if (due := throttle.due(step, step * 1.0)) and due.preview] == [75]


def test_a_draining_lane_is_told_at_once() -> None:
    """Whatever was sent a moment ago, a drain sends the state."""
    throttle = ProgressThrottle(StreamOptions(steps=True), 20, 5)
    assert throttle.due(1, 0.0) is not None
    assert throttle.due(2, 0.01) is None
    assert throttle.due(2, 0.02, drain=True) == ProgressMessage(False, True, False)


@given(
    st.builds(StreamOptions, st.integers(0, 3), st.booleans()),
    st.integers(1, 60),
    st.lists(st.floats(0.001, 2), min_size=60, max_size=60),
    st.integers(0, 9),
)
def test_no_lane_says_more_than_four_things_a_second(
    stream: StreamOptions, steps: int, step_s: list[float], every: int
) -> None:
    """Whatever is asked for and however fast the steps, any two reports are a quarter of a second apart."""
    throttle, now, sent, previews = ProgressThrottle(stream, steps, every), 0.0, [], 0
    for step in range(1, steps + 1):
        now += step_s[step - 1]
        due = throttle.due(step, now)
        if due is not None and due.report:
            sent.append(now)
            previews += due.preview
    assert all(b - a >= 1 / MESSAGES_A_SECOND - 1e-9 for a, b in pairwise(sent))
    assert previews <= stream.previews
