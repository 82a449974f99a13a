"""The tier of a job: its own, its model's, or a lower one that it allows in a crowd."""

from dataclasses import replace

import pytest

from lego_serve.core.tiers.book import TierBook, TierChoice, TierRun
from lego_serve.core.tiers.grids import Grid, shifted_sigmas
from lego_serve.core.workflow.bind import bind
from lego_serve.core.workflow.tiers import choose_tier, tuned_runs
from lego_serve.errors import RequestError, UnsupportedParameter
from lego_serve.workflow_files import built_in_workflows

WORKFLOW = built_in_workflows()["lego-tiny"]


def run(tier: str, evaluations: int) -> TierRun:
    """For 20 steps at any size."""
    return TierRun(tier, "euler", 20, (1, 2**20), Grid("euler", shifted_sigmas(evaluations, 3.0, 0.001)))


BOOKS = {"lego-tiny": TierBook((run("high", 10), run("fast", 5)))}


def bound(**values: object) -> dict[str, object]:
    """The inputs of a request."""
    return bind(WORKFLOW, {"prompt": "a"} | values)


@pytest.mark.parametrize(
    ("tier", "floor", "is_crowded", "expected"),
    [
        (None, None, True, TierChoice("exact")),
        ("high", None, True, TierChoice("high", 0.5)),
        (None, "fast", False, TierChoice("exact")),
        (None, "fast", True, TierChoice("fast", 0.25, "exact")),
        (None, "balanced", True, TierChoice("high", 0.5, "exact")),
        ("high", "turbo", True, TierChoice("fast", 0.25, "high")),
        ("fast", "high", True, TierChoice("fast", 0.25)),
    ],
)
def test_a_tier_is_lowered_in_a_crowd_alone_and_to_its_floor(
    tier: str | None, floor: str | None, is_crowded: bool, expected: TierChoice
) -> None:
    """To the lowest that is tuned; the choice knows what it evaluates and what was asked for."""
    assert choose_tier(WORKFLOW, bound(tier=tier), BOOKS, floor, is_crowded=is_crowded) == expected


def test_steps_that_no_lower_tier_is_tuned_for_run_as_asked() -> None:
    """A floor is a permission; a tier that is named is a demand."""
    choice = choose_tier(WORKFLOW, bound(steps=21), BOOKS, "fast", is_crowded=True)
    assert choice == TierChoice("exact")
    with pytest.raises(RequestError, match="not tuned for 21 steps"):
        choose_tier(WORKFLOW, bound(steps=21, tier="high"), BOOKS, "fast", is_crowded=True)


def test_a_workflow_without_tiers_takes_no_floor() -> None:
    """It runs in full."""
    plain = built_in_workflows()["lego-tiny"]
    inputs = {name: each for name, each in plain.inputs.items() if name != "tier"}
    without = replace(plain, inputs=inputs)
    assert choose_tier(without, {}, BOOKS, None, is_crowded=True) == TierChoice()
    with pytest.raises(UnsupportedParameter, match="takes no tier"):
        choose_tier(without, {}, BOOKS, "fast", is_crowded=True)


def test_a_workflow_has_the_tiers_that_all_its_denoising_models_have() -> None:
    """None where it takes no tier, or where nothing was tuned."""
    runs = BOOKS["lego-tiny"].runs
    assert tuned_runs(WORKFLOW, BOOKS) == runs
    assert tuned_runs(WORKFLOW, {}) == ()
    inputs = {name: each for name, each in WORKFLOW.inputs.items() if name != "tier"}
    assert tuned_runs(replace(WORKFLOW, inputs=inputs), BOOKS) == ()
    again = replace(WORKFLOW.nodes["latents"], name="again", model="other")
    both = replace(WORKFLOW, nodes={**WORKFLOW.nodes, "again": again})
    assert tuned_runs(both, BOOKS | {"other": TierBook((run("fast", 4),))}) == runs[1:]
    assert tuned_runs(both, BOOKS) == ()
