"""How many passes prime a template: known from the workflow and the request alone."""

from dataclasses import replace

import pytest

from lego_serve.core.edits import picture_key
from lego_serve.core.reuse import Quality
from lego_serve.core.templates import edit_node, entries_of, owner_of, pin_of, pin_room
from lego_serve.core.workflow import Source, Workflow
from lego_serve.core.workflow_bind import bind
from lego_serve.workflow_files import built_in_workflows

WORKFLOWS = built_in_workflows()
EDIT = WORKFLOWS["lego-tiny-edit"]


def entries(workflow: Workflow = EDIT, quality: Quality = Quality.HIGH, **given: object) -> int:
    """Those of an edit with these inputs."""
    return entries_of(workflow, bind(workflow, {"prompt": "a", "edit": b"", "steps": 10} | given), quality)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, 10),
        ({"negative_prompt": "blue"}, 20),
        ({"negative_prompt": "blue", "guidance": 1.0}, 10),
        ({"negative_prompt": "blue", "guidance_start": 0.5}, 15),
        ({"negative_prompt": "blue", "guidance_end": 0.25}, 13),
        ({"steps": 7}, 7),
    ],
)
def test_a_pass_for_each_step_and_a_second_where_another_prompt_guides(given, wanted) -> None:
    """The workflow primes with the empty prompt, which its negative prompt is too unless the request says another."""
    assert entries(**given) == wanted


def test_quality_says_how_many_steps_read() -> None:
    """None, and every other one."""
    assert (entries(quality=Quality.EXACT), entries(quality=Quality.BALANCED)) == (0, 5)


def test_without_a_prompt_to_prime_with_the_edits_own_counts() -> None:
    """Which is its negative prompt's as well where the two are the same words."""
    node = edit_node(EDIT)
    assert node is not None
    own = {name: value for name, value in node.arguments.items() if name != "prime"}
    workflow = replace(EDIT, nodes=dict(EDIT.nodes) | {node.name: replace(node, arguments=own)})
    assert entries(workflow) == 20
    assert entries(workflow, negative_prompt="a") == 10
    alone = {name: value for name, value in own.items() if name != "negative"}
    unguided = replace(EDIT, nodes=dict(EDIT.nodes) | {node.name: replace(node, arguments=alone)})
    assert entries(unguided) == 10
    other = replace(EDIT.nodes["prime"], arguments={"prompt": Source("inputs", "prompt")})
    assert entries(replace(EDIT, nodes=dict(EDIT.nodes) | {"prime": other})) == 20


def test_workflows_without_edits_read_nothing() -> None:
    """They have no node for it."""
    assert entries_of(WORKFLOWS["lego-tiny"], {}) == 0


def test_a_picture_is_named_by_its_owner_its_shape_and_its_pixels() -> None:
    """Each makes another name, and nothing else does."""
    names = [
        picture_key(*given)
        for given in (("a", (1, 2, 3), b"123456"), ("b", (1, 2, 3), b"123456"), ("a", (2, 1, 3), b"123456"),
                      ("a", (1, 2, 3), b"123457"))
    ]  # fmt: skip
    assert len(set(names)) == 4
    assert names[0] == picture_key("a", (1, 2, 3), b"123456")


def test_what_a_tenant_may_pin_is_a_part_of_what_all_may() -> None:
    """An equal one where nothing is said, all of it without others, and never more than there is."""
    assert [pin_room(1000, tenants) for tenants in (0, 1, 2, 3)] == [500, 500, 250, 166]
    assert [pin_room(1000, 4, said) for said in (0, 200, 500, 900)] == [0, 200, 500, 500]


def test_a_pin_tells_whose_it_is_without_saying_it() -> None:
    """Two of one tenant have one owner, and another's have another; none of it is a name."""
    pins = [pin_of(tenant, token) for tenant in ("anna", "otto") for token in ("1", "2")]
    assert len(set(pins)) == 4
    assert [owner_of(pin) == owner_of(pins[0]) for pin in pins] == [True, True, False, False]
    assert not any("anna" in pin or "otto" in pin or " " in pin for pin in pins)
