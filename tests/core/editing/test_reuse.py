"""Reuse plans: which steps read and which compute."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.editing.reuse import (
    MAX_ACTIVE_FRACTION,
    REUSE_RULES,
    UNCAPTIONED_ROWS,
    Quality,
    ReuseRule,
    branch_work,
    plan_reuse,
)

shares = st.floats(0, 1)
rules = st.builds(ReuseRule, shares, shares, st.integers(1, 8), shares)


@given(rule=rules, steps=st.integers(1, 100), rows=st.integers(1, 4096), data=st.data())
def test_a_step_reads_entries_no_staler_than_the_stride_and_never_of_later_steps(
    rule: ReuseRule, steps: int, rows: int, data: st.DataObject
) -> None:
    """Masked steps are one run between the full ones at the ends, and each source reads itself."""
    active = data.draw(st.integers(0, rows))
    plan = plan_reuse(rule, steps, active, rows)
    masked = [step for step, entry in enumerate(plan.entries) if entry is not None]
    assert len(plan.entries) == steps
    assert plan.masked_steps == len(masked)
    assert masked == list(range(masked[0], masked[0] + len(masked))) if masked else True
    for step in masked:
        entry = plan.entries[step]
        assert entry is not None
        assert 0 <= step - entry < rule.stride
        assert plan.entries[entry] == entry
    assert set(plan.sources) == {entry for entry in plan.entries if entry is not None}
    if masked:
        assert active <= MAX_ACTIVE_FRACTION * rows
        assert masked[0] >= rule.first * steps
        assert steps - 1 - masked[-1] >= rule.last * steps - 1e-9


@given(rule=rules, steps=st.integers(1, 100), room=st.integers(0, 120))
def test_no_more_is_read_than_there_is_room_for(rule: ReuseRule, steps: int, room: int) -> None:
    """The last steps read what fits; where all of it does the plan is that of any room."""
    free, bounded = plan_reuse(rule, steps, 1, 100), plan_reuse(rule, steps, 1, 100, room)
    assert len(bounded.sources) == min(room, len(free.sources))
    assert bounded.masked_steps >= min(free.masked_steps, room)
    if room >= len(free.sources):
        assert bounded == free


@given(steps=st.integers(1, 100))
def test_exact_reads_nothing(steps: int) -> None:
    """Whatever the mask."""
    assert plan_reuse(REUSE_RULES[Quality.EXACT], steps, 1, 100).masked_steps == 0


@given(rule=rules, steps=st.integers(1, 100), rows=st.integers(1, 4096), uncaptioned_first=shares)
def test_words_that_say_nothing_of_the_image_cost_first_steps_as_it_grows(
    rule: ReuseRule, steps: int, rows: int, uncaptioned_first: float
) -> None:
    """None up to a size and a rule's share from another on; other plans are not changed by that share."""
    with_share = replace(rule, uncaptioned_first=uncaptioned_first)
    captioned, uncaptioned = (
        plan_reuse(with_share, steps, 0, rows, is_uncaptioned=is_uncaptioned) for is_uncaptioned in (False, True)
    )
    larger_image = plan_reuse(with_share, steps, 0, rows + 1, is_uncaptioned=True)
    assert captioned == plan_reuse(rule, steps, 0, rows)
    assert larger_image.masked_steps <= uncaptioned.masked_steps <= captioned.masked_steps
    if rows <= UNCAPTIONED_ROWS[0]:
        assert uncaptioned == captioned
    if rows >= UNCAPTIONED_ROWS[1]:
        assert uncaptioned == plan_reuse(replace(rule, first=max(rule.first, uncaptioned_first)), steps, 0, rows)


@given(image=st.integers(1, 4096), text=st.integers(0, 512), data=st.data())
def test_a_branch_weighs_what_it_computes(image: int, text: int, data: st.DataObject) -> None:
    """All rows: as a whole image; fewer: less of both."""
    active = data.draw(st.integers(0, image))
    whole, part = branch_work(image, image, text), branch_work(image, active, text)
    assert (whole.rows, whole.pairs) == (image + text, (image + text) ** 2)
    assert part.rows == active + text
    assert part.pairs * whole.rows == whole.pairs * part.rows
    read = branch_work(image, active, text, reads_text=True)
    assert (read.rows, read.pairs) == (active, active * (image + text))


@pytest.mark.parametrize("wrong", [(-0.1, 0.0, 1), (0.0, 1.1, 1), (0.0, 0.0, 0)])
def test_rules_out_of_range_are_refused(wrong: tuple[float, float, int]) -> None:
    """Shares lie in 0..1, strides are 1 or more."""
    with pytest.raises(ValueError, match="shares"):
        ReuseRule(*wrong)
