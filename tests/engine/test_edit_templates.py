"""What edits keep and read of their templates: fewer rows, shared entries, predicted bytes, pins."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lego_serve.core.editing.reuse import Quality
from lego_serve.engine.lane_state import LaneRequest, LaneResult
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.engine.template_store import Template
from tests.support.builders import run_lanes
from tests.support.template_edits import SIZE, STEPS, lane, with_store


def test_less_is_computed_and_the_plan_says_so(family: OfflinePipeline, template: Template) -> None:
    """A lane of a known template weighs its masked rows; one of an unknown template its priming besides."""
    known = lane(family, template, Quality.HIGH)
    run_lanes(family, known)
    family.engine.add(known)
    plan = family.engine.plan()
    assert plan is not None
    text = int(known.cond.tokens.shape[0])
    assert plan.work.rows == 2 * active(template) + 2 * text
    family.engine.cancel("edit")
    family.engine.add(lane(family, Template.of(template.latents, 78), Quality.HIGH))
    first = family.engine.plan()
    assert first is not None
    priming = 64 + text
    assert first.work.rows - plan.work.rows == priming
    family.engine.add(lane(family, Template.of(template.latents, 78), Quality.HIGH, "twin"))
    both = family.engine.plan()
    assert both is not None
    assert both.work.rows == 2 * plan.work.rows + priming  # which they share
    family.engine.step(first)
    after = family.engine.plan()
    assert after is not None
    assert after.work.rows == 2 * plan.work.rows + priming  # one entry is there now, and another is needed
    family.engine.cancel("edit")
    alone = family.engine.plan()
    assert alone is not None
    assert alone.work.rows == plan.work.rows
    family.engine.cancel("twin")


def active(template: Template) -> int:
    """Tokens the mask touches, counted by hand: latent rows 2 to 8 and columns 4 to 10, two to a token."""
    return 3 * 3


def with_own_negative(request: LaneRequest, *, is_described: bool = True) -> LaneRequest:
    """The same primed as a server does: the unconditional branch with the request's own negative prompt."""
    assert request.edit is not None
    assert request.negative is not None
    prompts = request.edit.priming_prompts[0], request.negative
    return replace(request, edit=replace(request.edit, priming_prompts=prompts, is_described=is_described))


def test_the_text_of_the_unconditional_branch_is_read_as_well(tiny_folder: Path, template: Template) -> None:
    """Where words describe the image that primed: fewer rows, other bits, and the same whoever primed."""
    family = with_store(tiny_folder, 64 * 2**20)
    request = with_own_negative(lane(family, template, Quality.HIGH))
    first = run_lanes(family, request)["edit"]
    text = int(request.cond.tokens.shape[0])
    rows = {}
    for name, is_described in (("read", True), ("computed", False)):
        family.engine.add(with_own_negative(request, is_described=is_described))
        plan = family.engine.plan()
        assert plan is not None
        rows[name] = plan.work.rows
        family.engine.cancel("edit")
    assert rows == {"read": 2 * active(template) + text, "computed": 2 * active(template) + 2 * text}
    assert torch.equal(run_lanes(family, request)["edit"], first)
    uncaptioned_first = run_lanes(family, with_own_negative(request, is_described=False))["edit"]
    assert not torch.equal(uncaptioned_first, first)
    torch.testing.assert_close(uncaptioned_first, first, rtol=0, atol=0.5)


def test_a_described_edit_and_one_that_is_not_share_what_the_negative_prompt_primed(
    tiny_folder: Path, template: Template
) -> None:
    """One entry a step for the negative prompt, with its text, and one for the caption, without."""
    family = with_store(tiny_folder, 64 * 2**20)
    store = family.engine.templates
    size = family.engine.entry_size(SIZE, SIZE)
    plain, whole = size.plain_bytes, size.plain_bytes + size.text_bytes
    assert size.rows == 64
    assert plain < whole
    uncaptioned_first = with_own_negative(lane(family, template, Quality.HIGH), is_described=False)
    assert uncaptioned_first.edit is not None
    _, negative = uncaptioned_first.edit.priming_prompts
    edit = replace(uncaptioned_first.edit, priming_prompts=(negative, negative))
    uncaptioned_first = replace(uncaptioned_first, edit=edit)
    run_lanes(family, uncaptioned_first)
    assert store.used_bytes == STEPS * whole  # both branches are primed alike
    run_lanes(family, with_own_negative(lane(family, template, Quality.HIGH)))
    assert store.used_bytes == STEPS * (whole + plain)


def test_what_is_predicted_is_what_is_used(tiny_folder: Path, template: Template) -> None:
    """In each coding, an entry's bytes as the store counts them, and as its tensors take them."""
    for coding in ("float32", "bfloat16", "int8"):
        family = with_store(tiny_folder, 64 * 2**20, coding)
        mine = replace(template, key=f"mine.{template.key}")
        run_lanes(family, lane(family, mine, Quality.HIGH))
        predicted = STEPS * family.engine.entry_size(SIZE, SIZE).plain_bytes  # both branches are primed alike
        assert family.engine.templates.used_bytes == predicted
        assert family.engine.templates.bytes_of("mine") == pytest.approx(predicted, rel=0.05)
        assert family.engine.templates.bytes_of("other") == 0


def test_a_pinned_template_is_never_evicted_by_others(tiny_folder: Path, template: Template) -> None:
    """Room for two templates, one pinned: of three more edited after it, it alone is still there, and is not primed."""
    one = with_store(tiny_folder, 64 * 2**20).engine.entry_size(SIZE, SIZE).plain_bytes * STEPS
    family = with_store(tiny_folder, 2 * one)
    pinned = replace(template, key=f"pinned.{template.key}")
    first = with_pin(lane(family, pinned, Quality.HIGH), "a")
    wanted = run_lanes(family, first)["edit"]
    store = family.engine.templates
    assert store.pinned_bytes == one
    for seed in range(3):
        other = Template.of(template.latents, seed, "other")
        for _ in range(3):  # asked for more often than the pinned one, and so worth more
            run_lanes(family, lane(family, other, Quality.HIGH))
    assert store.bytes_of("pinned") == one
    passes: list[int] = []
    family.engine.add(first)
    while family.engine.lanes:
        for _, outcome in family.engine.step():
            assert isinstance(outcome, LaneResult)
            assert outcome.reuse is not None
            passes.append(outcome.reuse.primed)
            assert torch.equal(outcome.latents, wanted)
    assert passes == [0]


def test_a_template_that_is_forgotten_in_the_middle_is_computed_again(tiny_folder: Path, template: Template) -> None:
    """The edit ends with the bits it always has, and its pin holds nothing any more."""
    family = with_store(tiny_folder, 64 * 2**20)
    mine = replace(template, key=f"mine.{template.key}")
    request = with_pin(lane(family, mine, Quality.HIGH), "a")
    wanted = run_lanes(family, request)["edit"]
    store = family.engine.templates
    family.engine.add(request)
    for _ in range(2):
        family.engine.step()
    store.forget("mine", "a")
    assert (store.used_bytes, store.pinned_bytes) == (0, 0)
    while family.engine.lanes:
        for _, outcome in family.engine.step():
            assert isinstance(outcome, LaneResult)
            assert torch.equal(outcome.latents, wanted)
    assert store.bytes_of("mine") > 0
    assert store.pinned_bytes == 0
    run_lanes(family, with_pin(request, "b"))
    assert store.pinned_bytes == store.bytes_of("mine")


def with_pin(request: LaneRequest, pin: str) -> LaneRequest:
    """An edit whose template is to stay."""
    assert request.edit is not None
    return replace(request, edit=replace(request.edit, pin=pin))
