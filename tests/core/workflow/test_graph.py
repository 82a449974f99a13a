"""The canonical form of a workflow and its hash."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.workflow.compile import compile_workflow
from lego_serve.core.workflow.graph import Input, Node, Source, Workflow
from lego_serve.workflow_files import built_in_workflows

WORKFLOW = Workflow(
    "w",
    "1",
    {"prompt": Input("text", required=True), "flag": Input("bool", default=False)},
    {
        "b": Node("b", "decode", "m", {"latents": Source("a", "latents")}),
        "a": Node("a", "text_encode", "m", {"prompt": Source("inputs", "prompt")}),
    },
    {"image": Source("b", "image")},
)


def test_order_does_not_matter() -> None:
    """Two workflows that differ in the order of their nodes and inputs are the same, hash and all."""
    nodes, inputs = dict(reversed(WORKFLOW.nodes.items())), dict(reversed(WORKFLOW.inputs.items()))
    other = Workflow("w", "1", inputs, nodes, WORKFLOW.outputs)
    assert other.content_hash == WORKFLOW.content_hash


@pytest.mark.parametrize(
    "other",
    [
        Input("bool"),
        Input("bool", default=True),
        Input("bool", required=True),
        Input("int", default=0),
        Input("int", default=0, min=0, max=1),
    ],
)
def test_every_part_of_an_input_is_in_the_hash(other: Input) -> None:
    """A default of false or zero is a default, and counts like any other."""
    changed = Workflow("w", "1", {**WORKFLOW.inputs, "flag": other}, WORKFLOW.nodes, WORKFLOW.outputs)
    assert changed.content_hash != WORKFLOW.content_hash


def test_a_node_knows_what_it_needs() -> None:
    """A node needs the nodes it refers to; inputs are no node."""
    assert WORKFLOW.nodes["b"].needs == {"a"}
    assert WORKFLOW.nodes["a"].needs == frozenset()


@pytest.mark.parametrize("workflow", built_in_workflows().values(), ids=lambda w: w.name)
def test_the_canonical_form_compiles_to_itself(workflow: Workflow) -> None:
    """Through JSON and back through the check comes the same workflow."""
    declared = json.loads(json.dumps(workflow.canonical()))
    again = compile_workflow(declared, lambda path: "canonical")
    assert again == workflow
    assert again.content_hash == workflow.content_hash


def test_workflows_cross_process_boundaries() -> None:
    """Pickle gives back an equal workflow."""
    assert pickle.loads(pickle.dumps(WORKFLOW)) == WORKFLOW


@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    st.text(alphabet=st.characters(exclude_categories=["Cs"])),
)
def test_different_literals_have_different_hashes(one: str, other: str) -> None:
    """Texts that differ never share a hash, whatever dollars and dots they hold."""

    def hashed(text: str) -> str:
        node = Node("a", "text_encode", "m", {"prompt": text})
        return Workflow("w", "1", {}, {"a": node}, {"image": Source("a", "cond")}).content_hash

    assert (hashed(one) == hashed(other)) == (one == other)
    assert hashed("$inputs.prompt") != WORKFLOW.content_hash
