"""A lane's rows per block: how many rows each block of a step computes, and what a step of so many is worth.

No state is kept between steps, and the model's router chooses the rows anew in each block.  Steps are whole where a
lane's own rows would be computed all, so that a tier of either kind is known by the same rules.
"""

from collections.abc import Sequence

from lego_serve.core.costs import StepWork
from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.errors import NodeError
from lego_serve.models.ragged.pruning.router import BlockRouter


def check_block_rows(plan: BlockRows, steps: int, router: BlockRouter | None) -> None:
    """Raise NodeError where a plan does not fit the model, or a lane of so many steps."""
    if router is None or router.blocks != plan.blocks:
        has = "has no router" if router is None else f"has {router.blocks}"
        raise NodeError(f"The tier chooses rows in {plan.blocks} blocks, and the model {has}: tune it for this model.")
    if plan.evaluations < steps:
        raise NodeError(f"The tier has rows by block for {plan.evaluations} evaluations, and the lane takes {steps}.")


def step_work(rows: Sequence[int], keys: Sequence[int], texts: Sequence[int], appended: int) -> StepWork:
    """Return the rows and pairs of a step, the means of its blocks, rounded up; planned as if all blocks were alike.

    ``rows`` and ``keys`` of the image by block, which read each other; ``texts``: the text rows of each branch.
    """
    blocks = len(rows)
    computed = sum(active + text for active in rows for text in texts)
    pairs = sum(
        (active + text) * (key + text + appended) for active, key in zip(rows, keys, strict=True) for text in texts
    )
    return StepWork(-(-computed // blocks), -(-pairs // blocks))
