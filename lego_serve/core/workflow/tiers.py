"""What tiers mean to a workflow: whether its nodes have them, and how many evaluations these take."""

from collections.abc import Iterator, Mapping

from lego_serve.core.tiers.book import EXACT, TierBook, TierChoice, TierRun, cheaper
from lego_serve.core.workflow.graph import Node, Source, Workflow
from lego_serve.errors import RequestError, UnsupportedParameter

INPUT = "tier"
NO_TIERS = TierBook()
Books = Mapping[str, TierBook]  # by model


def choose_tier(
    workflow: Workflow, inputs: Mapping[str, object], books: Books, floor: str | None, *, is_crowded: bool
) -> TierChoice:
    """Return the tier of a job whose inputs are bound: the one asked for, or under load the cheapest down to a floor.

    Raises RequestError for a tier that a node's model does not have for these steps and sizes, and
    UnsupportedParameter where the workflow takes none.
    """
    if INPUT not in workflow.inputs:
        if floor is not None:
            raise UnsupportedParameter(f"Workflow {workflow.name} takes no tier.", param="tier_floor")
        return TierChoice()
    nodes = [node for node in workflow.nodes.values() if node.kind == "denoise"]
    asked = _asked(nodes, inputs, books)
    share = max((_share(node, inputs, books, asked) for node in nodes), default=1.0)
    if floor is None or not is_crowded:
        return TierChoice(asked, share)
    lower = list(_possible(nodes, inputs, books, asked, floor))
    if not lower:
        return TierChoice(asked, share)
    return TierChoice(lower[-1], max(_share(node, inputs, books, lower[-1]) for node in nodes), asked)


def tuned_runs(workflow: Workflow, books: Books) -> tuple[TierRun, ...]:
    """Return what the tiers run that a request of a workflow may name besides ``exact``; none where it takes no tier.

    A tier counts where every model that denoises has it; the runs are those of the first of them.
    """
    nodes = [node for node in workflow.nodes.values() if node.kind == "denoise"]
    if INPUT not in workflow.inputs or not nodes:
        return ()
    first, *others = (books.get(node.model, NO_TIERS) for node in nodes)
    return tuple(run for run in first.runs if all(run.tier in book.names for book in others))


def run_of(node: Node, inputs: Mapping[str, object], books: Books, tier: str | None = None) -> TierRun | None:
    """Return what a denoising node runs in place of its steps; None for these.  Raises RequestError."""
    book = books.get(node.model, NO_TIERS)
    sampler = argument(node, "sampler", inputs) or "euler"
    steps, width, height = (int(str(argument(node, name, inputs) or 0)) for name in ("steps", "width", "height"))
    named = argument(node, INPUT, inputs) if tier is None else tier
    named = named.tier if isinstance(named, TierChoice) else named
    return book.choose(None if named is None else str(named), str(sampler), steps, width, height)


def argument(node: Node, name: str, inputs: Mapping[str, object]) -> object:
    """Return the value of a node's argument that is a literal or an input; None where it is neither."""
    value = node.arguments.get(name)
    if isinstance(value, Source):
        return inputs.get(value.output) if value.node == "inputs" else None
    return value


def _asked(nodes: list[Node], inputs: Mapping[str, object], books: Books) -> str:
    """Return the tier that is asked for: the request's, or else that of the nodes' model."""
    named = inputs.get(INPUT)
    if named is not None:
        return str(named)
    return next((books.get(node.model, NO_TIERS).default for node in nodes), EXACT)


def _share(node: Node, inputs: Mapping[str, object], books: Books, tier: str) -> float:
    """Return the part of the work of a node's steps that a tier does.  Raises RequestError."""
    run = run_of(node, inputs, books, tier)
    return 1.0 if run is None else run.work_share


def _possible(nodes: list[Node], inputs: Mapping[str, object], books: Books, asked: str, floor: str) -> Iterator[str]:
    """Yield the tiers from the one below ``asked`` down to a floor that all nodes have for their steps."""
    for tier in cheaper(asked, floor):
        if all(_has(node, inputs, books, tier) for node in nodes):
            yield tier


def _has(node: Node, inputs: Mapping[str, object], books: Books, tier: str) -> bool:
    try:
        return run_of(node, inputs, books, tier) is not None
    except RequestError:
        return False
