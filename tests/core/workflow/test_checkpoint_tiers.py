"""Tiers on other checkpoints: which node of a workflow computes on them, for which requests, and at what work."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.addons import AdapterRequest
from lego_serve.core.rate_limits import pixel_steps
from lego_serve.core.tiers.book import EXACT, TIERS, TierBook, TierChoice
from lego_serve.core.workflow.bind import bind
from lego_serve.core.workflow.graph import checkpoint_component, is_backbone, tier_of
from lego_serve.core.workflow.tiers import at_tier, checkpoint_nodes, choose_tier, tuned_runs
from lego_serve.errors import RequestError
from lego_serve.workflow_files import built_in_workflows
from tests.support.students.tiers import BOOK, FAST, STUDENT, TURBO

WORKFLOWS = built_in_workflows()
PLAIN = WORKFLOWS["lego-tiny"]
BOOKS = {"lego-tiny": BOOK}


def bound(**values: object) -> dict[str, object]:
    """The inputs of a request."""
    return bind(PLAIN, {"prompt": "a"} | values)


def choose(floor: str | None = None, **values: object) -> TierChoice:
    """The tier of a request, in a crowd."""
    return choose_tier(PLAIN, bound(**values), BOOKS, floor, is_crowded=True)


@given(st.sampled_from([None, *TIERS]), st.sampled_from([EXACT, "fast", "turbo"]), st.sets(st.sampled_from(["a", "b"])))
def test_a_node_computes_on_a_checkpoint_exactly_where_its_tier_has_one(
    named: str | None, default: str, models: set[str]
) -> None:
    """A tier that is not named is the model's default; text and images are the model's own nodes."""
    second = replace(PLAIN.nodes["latents"], name="again", model="b")
    workflow = replace(PLAIN, nodes={**PLAIN.nodes, "latents": replace(PLAIN.nodes["latents"], model="a")})
    workflow = replace(workflow, nodes={**workflow.nodes, "again": second})
    inputs = bound() | {"tier": named}
    run = at_tier(workflow, inputs, {model: replace(BOOK, default=default) for model in models})
    for name, node in run.nodes.items():
        runs_turbo = node.kind == "denoise" and node.model in models and (named or default) == "turbo"
        own = workflow.nodes[name].component
        assert node.component == ("backbone-turbo" if runs_turbo else own)
        assert replace(node, tier="") == workflow.nodes[name]
    assert at_tier(workflow, inputs, {}) is workflow


def test_a_component_says_which_tier_it_is_of() -> None:
    """Any that denoises is a backbone, and no other."""
    assert (checkpoint_component("turbo"), tier_of("backbone-turbo")) == ("backbone-turbo", "turbo")
    assert [is_backbone(name) for name in ("backbone", "backbone-turbo", "vae", "text_encoder")] == [1, 1, 0, 0]
    assert [tier_of(name) for name in ("backbone", "vae-turbo")] == ["", ""]


def test_a_tier_of_four_steps_without_guidance_is_a_tenth_of_the_work() -> None:
    """Four of 20 steps, and one of two branches; a quota counts it so."""
    assert choose(tier="turbo") == TierChoice("turbo", 0.1)
    assert choose(tier="turbo", guidance=1.0) == TierChoice("turbo", 0.2)
    whole = pixel_steps(PLAIN, bound(), BOOKS)
    assert pixel_steps(PLAIN, bound(tier="turbo"), BOOKS) == whole // 10
    asked = {"lego-tiny": TierBook((replace(TURBO, checkpoint=replace(STUDENT, guidance=None)),))}
    assert choose_tier(PLAIN, bound(tier="turbo"), asked, None, is_crowded=False).share == 0.2


def test_in_a_crowd_a_request_may_be_lowered_to_it() -> None:
    """Where it was tuned with what is asked; else to the tier above."""
    assert choose("turbo") == TierChoice("turbo", 0.1, "exact")
    assert choose("turbo", negative_prompt="blue") == TierChoice("fast", 0.25, "exact")
    assert choose("turbo", tier="fast", guidance_end=0.5) == TierChoice("fast", 0.25)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"negative_prompt": "blue"}, "a negative prompt"),
        ({"guidance_start": 0.1}, "guidance in a part of the steps"),
        ({"guidance_end": 0.9}, "guidance in a part of the steps"),
    ],
)
def test_what_it_would_not_heed_is_refused(values: dict[str, object], said: str) -> None:
    """A blank negative prompt says nothing; with the guidance that is asked all of it is heeded."""
    with pytest.raises(RequestError, match=f"not tuned with {said}") as caught:
        choose(tier="turbo", **values)
    assert caught.value.param == "tier"
    assert choose(tier="turbo", negative_prompt=" ").tier == "turbo"
    asked = {"lego-tiny": TierBook((replace(TURBO, checkpoint=replace(STUDENT, guidance=None)),))}
    assert choose_tier(PLAIN, bound(tier="turbo", **values), asked, None, is_crowded=False).tier == "turbo"


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("lego-tiny-lora", {"lora": (AdapterRequest("stripes-r4"),)}, "adapters"),
        ("lego-tiny-controlnet", {"controlnet": b""}, "ControlNets"),
        ("lego-tiny-controlnet-lora", {"controlnet": b"", "lora": (AdapterRequest("a"),)}, "adapters and ControlNets"),
        ("lego-tiny-img2img", {"image": b""}, "images to start from"),
        ("lego-tiny-edit", {"edit": b""}, "edits"),
    ],
)
def test_a_workflow_of_more_than_text_has_no_such_tier(name: str, values: dict[str, object], said: str) -> None:
    """It is refused by name, also where it is the model's default; the workflow does not list it."""
    workflow = WORKFLOWS[name]
    inputs = bind(workflow, {"prompt": "a"} | values)
    for named, books in (("turbo", BOOKS), (None, {"lego-tiny": replace(BOOK, default="turbo")})):
        with pytest.raises(RequestError, match=f"not tuned with {said}"):
            choose_tier(workflow, inputs | {"tier": named}, books, None, is_crowded=False)
        with pytest.raises(RequestError, match=f"not tuned with {said}"):
            pixel_steps(workflow, inputs | {"tier": named}, books)
    assert tuned_runs(workflow, BOOKS) == (FAST,)
    assert list(checkpoint_nodes(workflow, BOOKS)) == []


def test_a_workflow_of_text_lists_it_and_needs_its_node() -> None:
    """Of a model that has none there is none."""
    assert tuned_runs(PLAIN, BOOKS) == (FAST, TURBO)
    [node] = checkpoint_nodes(PLAIN, BOOKS)
    assert (node.model, node.component) == ("lego-tiny", "backbone-turbo")
    assert list(checkpoint_nodes(PLAIN, {})) == []


def test_a_workflow_may_have_the_tier_written_into_it() -> None:
    """And then a negative prompt is refused just the same, though the request names no tier."""
    latents = PLAIN.nodes["latents"]
    written = replace(latents, arguments={**latents.arguments, "tier": "turbo"})
    inputs = {name: each for name, each in PLAIN.inputs.items() if name != "tier"}
    workflow = replace(PLAIN, inputs=inputs, nodes={**PLAIN.nodes, "latents": written})
    values = bind(workflow, {"prompt": "a"})
    assert at_tier(workflow, values, BOOKS).nodes["latents"].component == "backbone-turbo"
    choose_tier(workflow, values, BOOKS, None, is_crowded=False)
    with pytest.raises(RequestError, match="a negative prompt"):
        choose_tier(workflow, values | {"negative_prompt": "blue"}, BOOKS, None, is_crowded=False)
