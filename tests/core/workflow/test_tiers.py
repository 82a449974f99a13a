"""The tier of a job: its own, its model's, or a lower one that it allows in a crowd."""

from dataclasses import replace

import pytest

from lego_serve.core.tiers.book import TierBook, TierChoice, TierRun
from lego_serve.core.tiers.grids import Grid, shifted_sigmas
from lego_serve.core.workflow.bind import bind
from lego_serve.core.workflow.graph import Source, Workflow
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


def with_second(**arguments: object) -> Workflow:
    """The workflow with another denoising node of as much work, which takes the tier unless an argument says more."""
    first = WORKFLOW.nodes["latents"]
    kept = {name: each for name, each in first.arguments.items() if name != "tier"}
    again = replace(first, name="again", arguments={**kept, **arguments})
    return replace(WORKFLOW, nodes={**WORKFLOW.nodes, "again": again})


@pytest.mark.parametrize(
    ("arguments", "named", "shares"),
    [
        ({"tier": Source("inputs", "tier")}, "fast", (0.25, 0.25)),
        ({"tier": "high"}, "fast", (0.25, 0.5)),
        ({"tier": "exact"}, "fast", (0.25, 1.0)),
        ({"tier": "fast"}, None, (1.0, 0.25)),
        ({}, "fast", (0.25, 1.0)),
    ],
)
def test_only_nodes_that_take_the_tier_run_it(
    arguments: dict[str, object], named: str | None, shares: tuple[float, float]
) -> None:
    """Another runs what is written into it, or its model's default; the job's share is that of all the work."""
    choice = choose_tier(with_second(**arguments), bound(tier=named), BOOKS, None, is_crowded=False)
    assert choice == TierChoice(named or "exact", sum(shares) / 2)
    assert (choice.shares["latents"], choice.shares["again"]) == shares


def test_a_node_that_does_not_take_the_tier_need_not_have_it() -> None:
    """A request for it is no error, and a crowd lowers the others."""
    workflow = with_second(tier="exact", steps=21)
    choice = choose_tier(workflow, bound(), BOOKS, "fast", is_crowded=True)
    assert (choice.tier, choice.lowered_from, choice.shares) == ("fast", "exact", {"latents": 0.25, "again": 1.0})
    assert choose_tier(workflow, bound(tier="high"), BOOKS, None, is_crowded=False).tier == "high"


def test_a_workflow_that_takes_no_tier_has_the_share_of_what_it_runs() -> None:
    """By a word in place of the input, or by its model's default."""
    plain = {name: each for name, each in WORKFLOW.inputs.items() if name != "tier"}
    latents = WORKFLOW.nodes["latents"]
    written = replace(latents, arguments={**latents.arguments, "tier": "fast"})
    workflow = replace(WORKFLOW, inputs=plain, nodes={**WORKFLOW.nodes, "latents": written})
    inputs = bind(workflow, {"prompt": "a"})
    assert choose_tier(workflow, inputs, BOOKS, None, is_crowded=False).share == 0.25
    bare = replace(latents, arguments={name: each for name, each in latents.arguments.items() if name != "tier"})
    workflow = replace(workflow, nodes={**WORKFLOW.nodes, "latents": bare})
    high = {"lego-tiny": replace(BOOKS["lego-tiny"], default="high")}
    assert choose_tier(workflow, inputs, high, None, is_crowded=False).share == 0.5
