"""Recovery: what becomes of a call whose replicas die."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.recovery import DEATHS, DEATHS_ALONE, Again, GiveUp, Poison, Recovery

EVERY = 5


def test_a_call_that_never_got_going_starts_anew() -> None:
    """Without a checkpoint the call is made again from the start, away from where it died."""
    recovery = Recovery(EVERY)
    recovery.accepted("r1")
    decision = recovery.lost()
    assert isinstance(decision, Again)
    assert (decision.checkpoints, decision.avoid) == ({}, {"r1"})
    assert decision.suspect_steps >= EVERY


def test_suspicion_reaches_past_the_step_of_the_death() -> None:
    """A lane known to be three steps past its checkpoint runs alone for more than those three."""
    recovery = Recovery(EVERY)
    recovery.progressed(0, 5, b"five", is_starting=False)
    recovery.progressed(0, 8, None, is_starting=False)
    decision = recovery.lost()
    assert isinstance(decision, Again)
    assert decision.suspect_steps > 3 + EVERY
    assert recovery.steps_redone == 3


def test_deaths_alone_in_one_step_are_poison() -> None:
    """The same step, alone, so many times: it is this request."""
    recovery = Recovery(EVERY)
    for death in range(DEATHS_ALONE):
        recovery.progressed(0, 6, None, is_starting=True)
        decision = recovery.lost()
        assert isinstance(decision, Poison) == (death == DEATHS_ALONE - 1)


def test_a_lane_that_came_through_its_step_is_not_blamed_for_it() -> None:
    """Progress after a start clears it: a death later is another one's."""
    recovery = Recovery(EVERY)
    for _ in range(2 * DEATHS_ALONE):
        recovery.progressed(0, 6, None, is_starting=True)
        recovery.progressed(0, 7, None, is_starting=False)
        assert isinstance(recovery.lost(), Again)


@given(st.lists(st.integers(0, 27), max_size=60))
def test_kills_at_random_steps_in_company_never_refuse(steps: list[int]) -> None:
    """However often replicas are killed while the lane runs with others, it goes on."""
    recovery = Recovery(EVERY)
    for step in steps:
        recovery.progressed(0, step, b"x" if step % EVERY == 0 else None, is_starting=False)
        assert isinstance(recovery.lost(), Again)


def test_a_job_is_given_up_in_the_end() -> None:
    """A replica that cannot live ends its callers' jobs, as the server's failure."""
    recovery = Recovery(EVERY)
    decisions = [recovery.lost() for _ in range(DEATHS)]
    assert isinstance(decisions[-1], GiveUp)
    assert all(isinstance(decision, Again) for decision in decisions[:-1])
