"""How many entries of a template an edit reads, known before it runs.

A priming pass fills one entry, of one noise level under one prompt.  The levels follow from the edit's plan, the
prompts from its workflow, where two that mean the same text share their entries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lego_serve.core.editing.edit import is_described
from lego_serve.core.editing.reuse import REUSE_RULES, Quality, plan_reuse
from lego_serve.core.workflow.graph import Node, Source, Workflow


def edit_node(workflow: Workflow) -> Node | None:
    """Return the node that denoises a workflow's edits, or None."""
    return next((node for node in workflow.nodes.values() if node.kind == "denoise" and "edit" in node.arguments), None)


@dataclass(frozen=True, slots=True)
class Entries:
    """The number of entries an edit reads: of the image's rows only, and with those of the unconditional prompt."""

    plain: int = 0
    with_text: int = 0


def entries_of(
    workflow: Workflow,
    inputs: Mapping[str, object],
    rows: int,
    quality: Quality = Quality.HIGH,
    begins: Sequence[int] | None = None,
) -> Entries:
    """Return the entries that an edit with these inputs of a workflow reads, if its ``strength`` is 1.

    ``rows``: the token rows of its image.  ``begins``: in a tier, the asked step that each step of its grid begins in.
    If both branches have the same prompt they share the entries with text.
    """
    node = edit_node(workflow)
    if node is None:
        return Entries()

    def argument(name: str, default: object = None) -> Any:
        return _resolved(workflow, node.arguments.get(name, default), inputs)

    steps = int(argument("steps"))
    first, last = float(argument("guidance_start", 0.0)), float(argument("guidance_end", 1.0))
    prime, negative = argument("prime"), argument("negative")
    is_guided = negative is not None and float(argument("guidance")) > 1
    is_uncaptioned = prime is not None and not is_described(inputs)
    plan = plan_reuse(REUSE_RULES[quality], steps, 0, rows, is_uncaptioned=is_uncaptioned, begins=begins)
    sources = plan.sources
    if not is_guided:
        return Entries(plain=len(sources))
    if negative == (prime or argument("cond")):
        return Entries(with_text=len(sources))
    asked = sources if begins is None else [begins[step] for step in sources]
    return Entries(len(sources), sum(first <= step / steps < last for step in asked))


def _resolved(workflow: Workflow, value: object, inputs: Mapping[str, object]) -> object:
    """Return an argument with every source replaced by its value or node; equal for nodes that compute the same."""
    if not isinstance(value, Source):
        return value
    if value.node == "inputs":
        return inputs.get(value.output)
    node = workflow.nodes[value.node]
    arguments = [(name, _resolved(workflow, argument, inputs)) for name, argument in sorted(node.arguments.items())]
    return node.kind, node.model, arguments
