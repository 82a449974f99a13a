"""Recovery: what becomes of a call whose replicas die."""

from collections import Counter
from random import Random

from hypothesis import example, given
from hypothesis import strategies as st

from lego_serve.core.jobs.progress import PREPARING, LaneCheckpoint, ProgressThrottle, StreamOptions
from lego_serve.core.jobs.recovery import MARGIN_STEPS, GiveUp, PoisonRequest, Recovery, Retry
from lego_serve.core.scheduling.retry import DEATHS_ALONE, DENOISE_DEATHS

EVERY = 5
STEPS = 60


def test_a_call_that_never_got_going_starts_anew() -> None:
    """Without a checkpoint the call is made again from the start, away from where it died."""
    recovery = Recovery(EVERY)
    recovery.note_accepted("r1")
    decision = recovery.after_loss()
    assert isinstance(decision, Retry)
    assert (decision.checkpoints, decision.avoid) == ({}, {"r1"})
    assert decision.suspect_steps >= EVERY


def test_suspicion_reaches_past_the_step_of_the_death() -> None:
    """A lane known to be three steps past its checkpoint runs alone for more than those three."""
    recovery = Recovery(EVERY)
    recovery.note_progress(0, 5, b"five", is_starting=False)
    recovery.note_progress(0, 8, None, is_starting=False)
    decision = recovery.after_loss()
    assert isinstance(decision, Retry)
    assert decision.suspect_steps > 3 + EVERY
    assert recovery.steps_redone == 3


def test_deaths_alone_in_one_step_are_poison() -> None:
    """The same step, alone, so many times: it is this request."""
    recovery = Recovery(EVERY)
    for death in range(DEATHS_ALONE):
        recovery.note_progress(0, 6, None, is_starting=True)
        decision = recovery.after_loss()
        assert isinstance(decision, PoisonRequest) == (death == DEATHS_ALONE - 1)


def test_a_lane_that_came_through_its_step_is_not_blamed_for_it() -> None:
    """Progress after a start clears it: a death later is another one's."""
    recovery = Recovery(EVERY)
    for _ in range(2 * DEATHS_ALONE):
        recovery.note_progress(0, 6, None, is_starting=True)
        recovery.note_progress(0, 7, None, is_starting=False)
        assert isinstance(recovery.after_loss(), Retry)


def test_the_first_hang_makes_no_suspects_and_the_next_ones_do() -> None:
    """A machine that stops is likelier than a request that stops it; but one that does so everywhere is refused."""
    recovery = Recovery(EVERY)
    recovery.note_accepted("r1")
    recovery.note_progress(0, 7, b"five", is_starting=False)
    first = recovery.after_hang()
    assert first == Retry({0: b"five"}, 0, frozenset({"r1"}), hangs=1)
    for hang in range(DEATHS_ALONE):
        recovery.note_progress(0, 6, None, is_starting=True)
        decision = recovery.after_hang()
        assert isinstance(decision, PoisonRequest) == (hang == DEATHS_ALONE - 1)
        if isinstance(decision, Retry):
            assert (decision.suspect_steps > 0, decision.hangs) == (True, hang + 2)


def test_a_task_that_runs_again_goes_on_from_its_checkpoints() -> None:
    """What was lost with a replica may be an input too: its lanes are still suspects, and do not start anew."""
    recovery = Recovery(EVERY)
    assert recovery.begin() == Retry({}, 0, frozenset())
    recovery.note_accepted("r1")
    recovery.note_progress(0, 40, b"forty", is_starting=False)
    recovery.note_progress(0, 42, None, is_starting=False)
    decision = recovery.after_loss()
    assert recovery.begin() == decision
    assert decision == Retry({0: b"forty"}, 2 + EVERY + MARGIN_STEPS, frozenset({"r1"}))
    assert recovery.steps_redone == 2


def test_a_task_whose_output_was_lost_runs_again_from_its_last_checkpoint_unsuspected() -> None:
    """Its lanes came through; the steps since are made again, and counted once."""
    recovery = Recovery(EVERY)
    recovery.note_progress(0, 55, b"x", is_starting=False)
    recovery.note_progress(0, 59, None, is_starting=False)
    recovery.note_result()
    assert recovery.begin() == recovery.begin() == Retry({0: b"x"}, 0, frozenset())
    assert recovery.steps_redone == 4


def test_a_task_begins_where_another_process_left_it() -> None:
    """Its lanes have done those steps: none is counted as redone, and a death falls back no further."""
    recovery = Recovery(EVERY, {0: LaneCheckpoint(20, b"twenty")})
    assert recovery.begin() == Retry({0: b"twenty"}, 0, frozenset())
    assert recovery.steps_redone == 0
    recovery.note_progress(0, 23, None, is_starting=False)
    decision = recovery.after_loss()
    assert isinstance(decision, Retry)
    assert decision.checkpoints == {0: b"twenty"}
    assert recovery.steps_redone == 3


TOLD = st.tuples(st.sampled_from(["starts alone", "came through", "lost", "hangs", "moves"]), st.integers(PREPARING, 2))


@given(st.lists(TOLD, max_size=60))
def test_nobody_is_refused_but_for_deaths_in_a_step_that_it_said_it_ran_alone(
    told: list[tuple[str, int]],
) -> None:
    """Whatever else befalls it: replicas that die before it starts or after it came through, hang once, or go."""
    recovery, alone, deaths, hangs = Recovery(EVERY), None, Counter[int](), 0
    for event, step in told:
        if event in ("starts alone", "came through"):
            alone = step if event == "starts alone" else None
            recovery.note_progress(0, step, None, is_starting=event == "starts alone")
            continue
        after = {"lost": recovery.after_loss, "hangs": recovery.after_hang, "moves": recovery.after_move}[event]
        decision, hangs = after(), hangs + (event == "hangs")
        if alone is not None and (event == "lost" or (event == "hangs" and hangs > 1)):
            deaths[alone] += 1
            if deaths[alone] == DEATHS_ALONE:
                assert decision == PoisonRequest(alone)
                return
        assert isinstance(decision, Retry)
        alone = None


@given(st.lists(st.integers(0, 27), max_size=60))
def test_kills_at_random_steps_in_company_never_refuse(steps: list[int]) -> None:
    """However often replicas are killed while the lane runs with others, it goes on."""
    recovery = Recovery(EVERY)
    for step in steps:
        recovery.note_progress(0, step, b"x" if step % EVERY == 0 else None, is_starting=False)
        assert isinstance(recovery.after_loss(), Retry)


def refused_by_kills(rng: Random, kill_every_s: float, kills: int) -> int:
    """Kill the only VAE at random amid eight decodes of 0.1 s, one after the other; return how many were refused."""
    decodes, refused = list[Recovery](), 0
    for _ in range(kills):
        ended = int(rng.expovariate(1 / kill_every_s) / 0.1)
        decodes = [*decodes[ended:], *(Recovery(1) for _ in range(8))][:8]
        if decodes[0].begin().suspect_steps:
            decodes[0].note_progress(0, PREPARING, None, is_starting=True)
        decisions = [decode.after_loss() for decode in decodes]
        refused += sum(isinstance(decision, PoisonRequest) for decision in decisions)
        decodes = [each for each, decision in zip(decodes, decisions, strict=True) if isinstance(decision, Retry)]
    return refused


def test_kills_from_outside_have_as_few_innocents_refused_as_is_promised() -> None:
    """By docs/reliability.md: three kills of a thousand at one every five seconds, and hardly any at one a minute."""
    assert 1e-3 < refused_by_kills(Random(1), 5.0, 4_000) / 4_000 < 5e-3
    assert refused_by_kills(Random(1), 60.0, 4_000) / 4_000 < 2e-4


def test_a_job_is_given_up_in_the_end() -> None:
    """A replica that cannot live ends its callers' jobs, as the server's failure."""
    recovery = Recovery(EVERY)
    decisions = [recovery.after_loss() for _ in range(DENOISE_DEATHS)]
    assert isinstance(decisions[-1], GiveUp)
    assert all(isinstance(decision, Retry) for decision in decisions[:-1])


@given(st.lists(st.sampled_from([PREPARING, 0, 1]), max_size=3 * DEATHS_ALONE))
def test_being_made_ready_is_a_step_of_its_own(steps: list[int]) -> None:
    """Deaths in it add up to a refusal by themselves, and to none with those in the steps that follow."""
    recovery, deaths = Recovery(EVERY), Counter[int]()
    for step in steps:
        recovery.note_progress(0, step, None, is_starting=True)
        deaths[step] += 1
        decision = recovery.after_loss()
        if deaths[step] == DEATHS_ALONE:
            assert decision == PoisonRequest(step)
            return
        assert isinstance(decision, Retry)
        assert decision.suspect_steps > EVERY


def heard(
    throttle: ProgressThrottle, first: int, last: int, step_s: float, late: int
) -> list[tuple[int, bytes | None]]:
    """What arrives of a lane that runs from one step up to another and is killed there.

    A message is on its way for as long as so many steps take; what has not arrived by then is lost.
    """
    said = ((step, throttle.due(step, step * step_s)) for step in range(first + 1, last + 1))
    return [
        (step, str(step).encode() if due.checkpoint else None)
        for step, due in said
        if due is not None and step + late <= last
    ]


@given(
    kills=st.lists(st.integers(0, 3 * EVERY), max_size=20),
    late=st.integers(0, MARGIN_STEPS),
    step_s=st.floats(0.001, 1),
    stream=st.builds(StreamOptions, st.integers(0, 3), st.booleans()),
)
def test_a_death_costs_no_more_steps_than_lie_between_checkpoints(
    kills: list[int], late: int, step_s: float, stream: StreamOptions
) -> None:
    """Wherever it comes and whoever listens: with the one under way at most EVERY, and those its messages were late by.

    The lane is under suspicion up to the step of the death, and no step counts as redone that was not.
    """
    recovery, ran, first = Recovery(EVERY), 0, 0
    for steps in kills:
        last = min(first + steps, STEPS - 1)
        for step, checkpoint in heard(ProgressThrottle(stream, STEPS, EVERY, first), first, last, step_s, late):
            recovery.note_progress(0, step, checkpoint, is_starting=False)
        ran += last - first
        decision = recovery.after_loss()
        assert isinstance(decision, Retry)
        first = int(decision.checkpoints.get(0, b"0"))
        assert 0 <= last - first <= EVERY - 1 + late
        assert decision.suspect_steps > last - first
    assert recovery.steps_redone <= ran - first


def lives(
    recovery: Recovery, every: int, steps: int, deadly: int, deaths: int, late: int = 0
) -> list[tuple[int, int, Retry | PoisonRequest | GiveUp]]:
    """Run a lane that kills its replica in a step: of each life its first step, those it ran alone, and the decision.

    A suspect's messages get out before its step; in company none is heard of the last ``late`` steps.
    """
    story, first, alone = [], 0, 0
    for _ in range(deaths):
        throttle = ProgressThrottle(StreamOptions(), steps, every, first)
        for step in range(first, deadly + 1):
            is_alone = step < first + alone
            if is_alone:
                recovery.note_progress(0, step, None, is_starting=True)
            if step == deadly:
                break
            due = throttle.due(step + 1, step * 0.01)
            if is_alone:
                recovery.note_progress(0, step + 1, None, is_starting=False)
            if due is not None and (is_alone or step + 1 + late <= deadly):
                recovery.note_progress(
                    0, step + 1, str(step + 1).encode() if due.checkpoint else None, is_starting=False
                )
        decision = recovery.after_loss()
        story.append((first, alone, decision))
        if not isinstance(decision, Retry):
            break
        first, alone = int(decision.checkpoints.get(0, b"0")), decision.suspect_steps
    return story


@given(every=st.integers(1, 200), deadly=st.integers(0, 199), late=st.integers(0, MARGIN_STEPS))
@example(every=50, deadly=97, late=0)
def test_a_lane_that_kills_runs_alone_past_its_step_and_is_refused(every: int, deadly: int, late: int) -> None:
    """However rare checkpoints are: it rejoins nobody before the deadly step, which it takes alone three times."""
    story = lives(Recovery(every), every, 200, deadly, DEATHS_ALONE + 1, late)
    assert len(story) == DEATHS_ALONE + 1
    assert all(first + alone > deadly for first, alone, _ in story[1:])
    assert story[-1][2] == PoisonRequest(deadly)


def test_a_recovery_that_takes_checkpoints_for_more_frequent_than_they_are_never_refuses() -> None:
    """A lane that is thought to tell of every fifth of its steps, and tells of every fiftieth, is back among others."""
    story = lives(Recovery(5), 50, 200, 97, DEATHS_ALONE + 1)
    assert any(first + alone <= 97 for first, alone, _ in story[1:])
