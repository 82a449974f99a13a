"""Templates that are registered: what is asked about them, and how many passes prime one.

A priming pass fills one entry, of one noise level under one prompt.  What an edit reads is known before it runs: the
levels from its plan, the prompts from its workflow, where two that mean the same text share their entries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from lego_serve.core.editing.edit import is_described
from lego_serve.core.editing.reuse import REUSE_RULES, Quality, plan_reuse
from lego_serve.core.workflow.graph import Node, Source, Workflow

PINNED_RATIO = 0.5  # of a replica's bytes: what is not pinned must find room too, or every step primes for itself


def pin_room(budget_bytes: int, tenants: int, said_bytes: int | None = None) -> int:
    """What of a replica's bytes the pins of one tenant may take: as said, or an equal part of what all may."""
    room = int(PINNED_RATIO * budget_bytes)
    return min(room, room // max(1, tenants) if said_bytes is None else said_bytes)


def pin_of(tenant: str, token: str) -> str:
    """A pin's name, which tells whose it is without saying it."""
    return f"{sha256(tenant.encode()).hexdigest()[:16]}.{token}"


def owner_of(pin: str) -> str:
    """Whose a pin is: the same for all of a tenant's."""
    return pin.partition(".")[0]


def entries_label(template: str, adapters: Sequence[tuple[str, float]] = ()) -> str:
    """What the entries of a template under a set of adapters (hashes and scales, those of an effect) are known by.

    Edits read those of their own set alone.
    """
    if not adapters:
        return template
    name = repr(sorted((str(sha), float(scale)) for sha, scale in adapters))
    return f"{template}+{sha256(name.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class TemplateCommand:
    """What is asked of all replicas of a model.

    ``rows``: the token rows of an image of size ``name``, as in 128x96.  ``entry``: the bytes of one entry of it;
    ``text``: those that a prompt's rows add.  ``bytes``: those kept of the image ``name``.  ``forget``: let go of it,
    and of its pin, which follows the name after a space.
    """

    verb: Literal["rows", "entry", "text", "bytes", "forget"]
    model: str
    name: str


def edit_node(workflow: Workflow) -> Node | None:
    """The node that denoises a workflow's edits, where it has one."""
    return next((node for node in workflow.nodes.values() if node.kind == "denoise" and "edit" in node.arguments), None)


@dataclass(frozen=True, slots=True)
class Entries:
    """How many entries edits read: of an image's rows alone, and with the rows of the unconditional prompt."""

    plain: int = 0
    with_text: int = 0


def entries_of(workflow: Workflow, inputs: Mapping[str, object], rows: int, quality: Quality = Quality.HIGH) -> Entries:
    """What an edit with these values of a workflow's inputs reads, but for a ``strength`` below 1.

    ``rows``: the token rows of its image.  Where all branches are primed alike they share what is kept with the text.
    """
    node = edit_node(workflow)
    if node is None:
        return Entries()

    def given(name: str, default: object = None) -> Any:
        return _meaning(workflow, node.arguments.get(name, default), inputs)

    steps = int(given("steps"))
    first, last = (float(given(name, end)) for name, end in (("guidance_start", 0.0), ("guidance_end", 1.0)))
    prime, negative = given("prime"), given("negative")
    is_guided = negative is not None and float(given("guidance")) > 1
    is_uncaptioned = prime is not None and not is_described(inputs)
    sources = plan_reuse(REUSE_RULES[quality], steps, 0, rows, is_uncaptioned=is_uncaptioned).sources
    if not is_guided:
        return Entries(plain=len(sources))
    if negative == (prime or given("cond")):
        return Entries(with_text=len(sources))
    return Entries(len(sources), sum(first <= step / steps < last for step in sources))


def _meaning(workflow: Workflow, value: object, inputs: Mapping[str, object]) -> object:
    """An argument with all it comes from put in its place; equal for nodes that compute the same."""
    if not isinstance(value, Source):
        return value
    if value.node == "inputs":
        return inputs.get(value.output)
    node = workflow.nodes[value.node]
    arguments = [(name, _meaning(workflow, said, inputs)) for name, said in sorted(node.arguments.items())]
    return node.kind, node.model, arguments
