"""The work of a denoising node, in pixel-steps: pixels of an image, times its steps, times the branches of a step."""

import math
from collections.abc import Mapping

from lego_serve.core.tiers.book import TierRun
from lego_serve.core.workflow.graph import Node, Source

WHOLE = frozenset({"edit", "controls"})  # arguments of a node whose lanes compute all rows, whatever their tier says


def argument(node: Node, name: str, inputs: Mapping[str, object]) -> object:
    """Return the value of a node's argument that is a literal or an input; None where it is neither."""
    value = node.arguments.get(name)
    if isinstance(value, Source):
        return inputs.get(value.output) if value.node == "inputs" else None
    return value


def node_work(node: Node, inputs: Mapping[str, object], run: TierRun | None = None) -> float:
    """Return a node's work for all images of a job, in the tier that it runs."""
    return _passes(node, inputs, run) * math.prod(_number(node, name, inputs) for name in ("n", "width", "height"))


def node_share(node: Node, inputs: Mapping[str, object], run: TierRun | None) -> float:
    """Return the part of a node's work that a tier does: of its steps, rows and branches."""
    return 1.0 if run is None else _passes(node, inputs, run) / _passes(node, inputs, None)


def is_guided(node: Node, inputs: Mapping[str, object], run: TierRun | None = None) -> bool:
    """Whether a node computes a second branch, by the guidance that is asked or that of its tier's checkpoint."""
    own = None if run is None or run.checkpoint is None else run.checkpoint.guidance
    guidance = _number(node, "guidance", inputs) if own is None else own
    return "negative" in node.arguments and guidance > 1


def _passes(node: Node, inputs: Mapping[str, object], run: TierRun | None) -> float:
    """Return how often a node computes all rows of an image, parts of them counted as parts."""
    branches = 2 if is_guided(node, inputs, run) else 1
    if run is None:
        return _number(node, "steps", inputs) * branches
    return run.grid.evaluations * branches * (1.0 if WHOLE & node.arguments.keys() else run.rows_ratio)


def _number(node: Node, name: str, inputs: Mapping[str, object]) -> float:
    """Return the number that an argument is, or that an input gives it; 1 where it is neither."""
    value = argument(node, name, inputs)
    return float(value) if isinstance(value, int | float) else 1.0
