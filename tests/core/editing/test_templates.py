"""How many passes prime a template: known from the workflow and the request alone."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.editing.edit import image_key
from lego_serve.core.editing.reuse import Quality
from lego_serve.core.editing.templates import PINNED_RATIO, owner_of, pin_of, pin_room
from lego_serve.core.workflow.bind import bind
from lego_serve.core.workflow.graph import Source, Workflow
from lego_serve.core.workflow.template_entries import Entries, edit_node, entries_of
from lego_serve.workflow_files import built_in_workflows

WORKFLOWS = built_in_workflows()
EDIT = WORKFLOWS["lego-tiny-edit"]


def entries(
    workflow: Workflow = EDIT, quality: Quality = Quality.HIGH, rows: int = 64, **values: object
) -> tuple[int, int]:
    """The entries of an edit with these inputs: of rows alone, and with text."""
    inputs = bind(workflow, {"prompt": "a", "edit": b"", "steps": 10} | values)
    read = entries_of(workflow, inputs, rows, quality)
    return read.plain, read.with_text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (0, 10)),
        ({"negative_prompt": "blue"}, (10, 10)),
        ({"negative_prompt": "blue", "guidance": 1.0}, (10, 0)),
        ({"negative_prompt": "blue", "guidance_start": 0.5}, (10, 5)),
        ({"negative_prompt": "blue", "guidance_end": 0.25}, (10, 3)),
        ({"steps": 7}, (0, 7)),
        ({"rows": 256}, (0, 8)),
        ({"rows": 4096, "steps": 40}, (0, 34)),
        ({"caption": "red"}, (10, 10)),
        ({"caption": "red", "rows": 256}, (10, 10)),
        ({"caption": " ", "rows": 256}, (8, 8)),
        ({"caption": "red", "guidance": 1.0}, (10, 0)),
        ({"caption": "red", "negative_prompt": "red"}, (0, 10)),
        ({"caption": "red", "negative_prompt": "blue", "guidance_end": 0.5}, (10, 5)),
    ],
)
def test_a_pass_for_each_step_and_a_second_where_another_prompt_guides(
    values: dict[str, Any], expected: tuple[int, int]
) -> None:
    """The caption primes, and is empty as the negative prompt is unless the request says another."""
    assert entries(**values) == expected


def test_a_model_that_is_told_its_guidance_reads_one_a_step() -> None:
    """Whatever the caption: nothing else guides."""
    flux = WORKFLOWS["flux-dev-edit"]
    assert [entries(flux, caption=caption) for caption in ("", "red")] == [(10, 0), (10, 0)]


def test_quality_says_how_many_steps_read() -> None:
    """None, and every other one."""
    assert (entries(quality=Quality.EXACT), entries(quality=Quality.BALANCED)) == ((0, 0), (0, 5))


def test_without_a_prompt_to_prime_with_the_edits_own_counts() -> None:
    """Which is its negative prompt's as well where the two are the same words."""
    node = edit_node(EDIT)
    assert node is not None
    own = {name: value for name, value in node.arguments.items() if name != "prime"}
    workflow = replace(EDIT, nodes=dict(EDIT.nodes) | {node.name: replace(node, arguments=own)})
    assert entries(workflow) == (10, 10)
    assert entries(workflow, negative_prompt="a") == (0, 10)
    assert entries(workflow, rows=4096) == (10, 10)  # the edit's own words say what it shows
    alone = {name: value for name, value in own.items() if name != "negative"}
    unguided = replace(EDIT, nodes=dict(EDIT.nodes) | {node.name: replace(node, arguments=alone)})
    assert entries(unguided) == (10, 0)
    other = replace(EDIT.nodes["prime"], arguments={"prompt": Source("inputs", "prompt")})
    assert entries(replace(EDIT, nodes=dict(EDIT.nodes) | {"prime": other})) == (10, 10)


def test_workflows_without_edits_read_nothing() -> None:
    """They have no node for it."""
    assert entries_of(WORKFLOWS["lego-tiny"], {}, 64) == Entries()


def test_an_image_is_named_by_its_owner_its_shape_and_its_pixels() -> None:
    """Each makes another name, and nothing else does."""
    names = [
        image_key("a", (1, 2, 3), b"123456"),
        image_key("b", (1, 2, 3), b"123456"),
        image_key("a", (2, 1, 3), b"123456"),
        image_key("a", (1, 2, 3), b"123457"),
    ]
    assert len(set(names)) == 4
    assert names[0] == image_key("a", (1, 2, 3), b"123456")


def test_what_a_tenant_may_pin_is_a_part_of_what_all_may() -> None:
    """An equal one where nothing is said, all of it without others, and never more than there is."""
    assert [pin_room(1000, tenants) for tenants in (0, 1, 2, 3)] == [500, 500, 250, 166]
    assert [pin_room(1000, 4, tenant_bytes) for tenant_bytes in (0, 200, 500, 900)] == [0, 200, 500, 500]


@given(st.integers(0, 10**12), st.integers(1, 50), st.none() | st.integers(0, 10**12))
def test_pins_never_take_what_unpinned_entries_need(budget: int, tenants: int, tenant_bytes: int | None) -> None:
    """One tenant never may pin more than the part for pins; equal shares of all tenants fit into it together."""
    room = pin_room(budget, tenants, tenant_bytes)
    assert 0 <= room <= PINNED_RATIO * budget
    if tenant_bytes is None:
        assert tenants * room <= PINNED_RATIO * budget


@given(
    st.sampled_from(["lego-tiny-edit", "flux-dev-edit"]),
    st.sampled_from(Quality),
    st.integers(1, 4096),
    st.integers(1, 50),
    st.sampled_from(["", "a", "red"]),
)
def test_an_edit_reads_at_most_one_entry_of_each_kind_a_step(
    name: str, quality: Quality, rows: int, steps: int, caption: str
) -> None:
    """And none at the quality that computes everything."""
    read = entries(WORKFLOWS[name], quality, rows, steps=steps, caption=caption)
    assert all(0 <= count <= steps for count in read)
    if quality is Quality.EXACT:
        assert read == (0, 0)


def test_a_pin_tells_whose_it_is_without_saying_it() -> None:
    """Two of one tenant have one owner, and another's have another; none of it is a name."""
    pins = [pin_of(tenant, token) for tenant in ("anna", "otto") for token in ("1", "2")]
    assert len(set(pins)) == 4
    assert [owner_of(pin) == owner_of(pins[0]) for pin in pins] == [True, True, False, False]
    assert not any("anna" in pin or "otto" in pin or " " in pin for pin in pins)
