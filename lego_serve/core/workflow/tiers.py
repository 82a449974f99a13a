"""What tiers mean to a workflow: whether its nodes have them, and how many evaluations these take."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from lego_serve.core.tiers.book import EXACT, TierBook, TierChoice, TierRun, cheaper
from lego_serve.core.tiers.checkpoints import NOT_TUNED, refuse_untuned, untuned
from lego_serve.core.workflow.graph import Node, Source, Workflow
from lego_serve.core.workflow.work import argument, node_share, node_work
from lego_serve.errors import RequestError, UnsupportedParameter

INPUT = "tier"
NO_TIERS = TierBook()
Books = Mapping[str, TierBook]  # by model
NO_BOOKS: Books = {}


def choose_tier(
    workflow: Workflow, inputs: Mapping[str, object], books: Books, floor: str | None, *, is_crowded: bool
) -> TierChoice:
    """Return the tier of a job whose inputs are bound: the one asked for, or under load the cheapest down to a floor.

    Only nodes that take the workflow's input run it; another runs what is written into it, or its model's default.
    Raises RequestError for a tier that a node's model does not have for these steps and sizes, or that was not tuned
    with what is asked, and UnsupportedParameter where the workflow takes none.
    """
    nodes = [node for node in workflow.nodes.values() if node.kind == "denoise"]
    if INPUT not in workflow.inputs:
        if floor is not None:
            raise UnsupportedParameter(f"Workflow {workflow.name} takes no tier.", param="tier_floor")
        return _chosen(EXACT, workflow, nodes, inputs, books)
    takers = [node for node in nodes if takes_tier(node)]
    asked = _asked(takers, inputs, books)
    choice = _chosen(asked, workflow, nodes, inputs, books)
    if floor is None or not is_crowded:
        return choice
    lower = [tier for tier in cheaper(asked, floor) if takers and _all_have(workflow, takers, inputs, books, tier)]
    return replace(_chosen(lower[-1], workflow, nodes, inputs, books), lowered_from=asked) if lower else choice


def takes_tier(node: Node) -> bool:
    """Whether a node runs the tier that a request names."""
    return node.arguments.get(INPUT) == Source("inputs", INPUT)


def at_tier(workflow: Workflow, inputs: Mapping[str, object], books: Books) -> Workflow:
    """Return a workflow as a job with these inputs runs it: on the checkpoints of the tiers that have one."""
    nodes = {}
    for name, node in workflow.nodes.items():
        book = books.get(node.model)
        if book is not None and node.kind == "denoise" and book.checkpoints:
            tier = _named(node, inputs) or book.default
            nodes[name] = replace(node, tier=tier if tier in book.checkpoints else "")
    return replace(workflow, nodes={**workflow.nodes, **nodes}) if nodes else workflow


def checkpoint_nodes(workflow: Workflow, books: Books) -> Iterator[Node]:
    """Yield a workflow's denoising nodes as they may run on checkpoints of their models' tiers."""
    for node in workflow.nodes.values():
        if node.kind == "denoise" and not NOT_TUNED.keys() & node.arguments.keys():
            yield from (replace(node, tier=tier) for tier in books.get(node.model, NO_TIERS).checkpoints)


def tuned_runs(workflow: Workflow, books: Books) -> tuple[TierRun, ...]:
    """Return what the tiers run that a request of a workflow may name besides ``exact``; none where it takes no tier.

    A tier counts where every model that denoises has it; the runs are those of the first of them.
    """
    nodes = [node for node in workflow.nodes.values() if node.kind == "denoise"]
    if INPUT not in workflow.inputs or not nodes:
        return ()
    first, *others = (books.get(node.model, NO_TIERS) for node in nodes)
    takes_all = any(NOT_TUNED.keys() & node.arguments.keys() for node in nodes)
    runs = (run for run in first.runs if run.checkpoint is None or not takes_all)
    return tuple(run for run in runs if all(run.tier in book.names for book in others))


def run_of(node: Node, inputs: Mapping[str, object], books: Books, tier: str | None = None) -> TierRun | None:
    """Return what a denoising node runs in place of its steps; None for these.  Raises RequestError.

    A run on a checkpoint is refused where the node has what that was not tuned with.
    """
    book = books.get(node.model, NO_TIERS)
    sampler = argument(node, "sampler", inputs) or "euler"
    steps, width, height = (int(str(argument(node, name, inputs) or 0)) for name in ("steps", "width", "height"))
    run = book.choose(_named(node, inputs) if tier is None else tier, str(sampler), steps, width, height)
    if run is not None and run.checkpoint is not None:
        refuse_untuned(run.tier, node.arguments.keys())
        guided = argument(node, "guidance_start", inputs) or 0.0, argument(node, "guidance_end", inputs)
        if run.checkpoint.guidance is not None and guided not in ((0.0, None), (0.0, 1.0)):
            raise untuned(run.tier, "guidance in a part of the steps")
    return run


def _asked(nodes: Sequence[Node], inputs: Mapping[str, object], books: Books) -> str:
    """Return the tier that is asked for: the request's, or else the default of the model of the nodes that take it."""
    named = inputs.get(INPUT)
    if named is not None:
        return str(named)
    return next((books.get(node.model, NO_TIERS).default for node in nodes), EXACT)


def _named(node: Node, inputs: Mapping[str, object]) -> str | None:
    """Return the tier that a node's inputs name; None where they name none."""
    named = argument(node, INPUT, inputs)
    return None if named is None else str(named)


def _chosen(
    tier: str, workflow: Workflow, nodes: Sequence[Node], inputs: Mapping[str, object], books: Books
) -> TierChoice:
    """Return the choice of a tier, run by the nodes that take one.  Raises RequestError."""
    runs = {
        node.name: _checked_run(workflow, node, inputs, books, tier if takes_tier(node) else None) for node in nodes
    }
    whole = sum(node_work(node, inputs) for node in nodes)
    done = sum(node_work(node, inputs, runs[node.name]) for node in nodes)
    shares = {node.name: node_share(node, inputs, runs[node.name]) for node in nodes}
    return TierChoice(tier, done / whole if whole else 1.0, shares=shares)


def _all_have(workflow: Workflow, nodes: Sequence[Node], inputs: Mapping[str, object], books: Books, tier: str) -> bool:
    """Whether all denoising nodes have a tier for their steps, tuned with what is asked."""
    try:
        return all(_checked_run(workflow, node, inputs, books, tier) is not None for node in nodes)
    except RequestError:
        return False


def _checked_run(
    workflow: Workflow, node: Node, inputs: Mapping[str, object], books: Books, tier: str | None
) -> TierRun | None:
    """Return what a node runs; a negative prompt is refused where no branch would heed it.  Raises RequestError."""
    run = run_of(node, inputs, books, tier)
    source = node.arguments.get("negative")
    if run is None or run.checkpoint is None or not run.checkpoint.is_unguided or not isinstance(source, Source):
        return run
    text = argument(workflow.nodes[source.node], "prompt", inputs)
    if text is not None and str(text).strip():
        raise untuned(run.tier, "a negative prompt")
    return run
