"""Whether a lane's pixels depend on its batch-mates: never where it is demanded, else weighed against time.

The rules are kept by construction (row-stable products, attention by branch, fp32 latents).  The
probe runs one lane alone and among others of other shapes and compares the bits.
"""

import torch

from lego_serve.engine.calibration import fastest, sample_lane
from lego_serve.errors import ConfigError
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.batch_invariant import set_batch_invariant
from lego_serve.models.ragged.lane_input import LaneInput

LIMIT = 1.05  # what a rule may cost, in step time, before it is dropped where invariance is not demanded
SIDES = (4, 6, 8)


def ensure_batch_invariance(backbone: Backbone, *, required: bool) -> str:
    """Hold the backbone to its rules, or drop what costs too much, and say in words what that means here.

    Raises ConfigError where invariance is required and cannot be held on this device.
    """
    set_batch_invariant(True)
    if required:
        if not is_batch_invariant(backbone):
            raise ConfigError("`batch_invariant: true` cannot be held on this device; choose `false`")
        return "held: a lane's bits are the same alone and among batch-mates"
    cost = row_rule_cost(backbone)
    if cost <= LIMIT:
        return f"not required; no rule dropped, row-stable products cost {100 * (cost - 1):.1f} %"
    set_batch_invariant(False)
    return f"not required; row-stable products dropped, they cost {100 * (cost - 1):.1f} %"


def is_batch_invariant(backbone: Backbone) -> bool:
    """Whether one lane's velocity has the same bits alone and among lanes of other shapes."""
    mates = [sample_lane(backbone, side, seed=side) for side in SIDES]
    first = sample_lane(backbone, SIDES[0], seed=99)
    alone = backbone.velocity([first])[0]
    batches: list[tuple[list[LaneInput], int]] = [
        ([first, *mates], 0),
        ([*mates, first], len(mates)),
        ([first] * 4, 3),
    ]
    return all(torch.equal(backbone.velocity(batch)[place], alone) for batch, place in batches)


def row_rule_cost(backbone: Backbone) -> float:
    """Step time with row-stable products over step time without, for a few lanes."""
    lanes = [sample_lane(backbone, SIDES[-1])] * 4
    kept_s = fastest(lambda: backbone.velocity(lanes), 3)
    set_batch_invariant(False)
    dropped_s = fastest(lambda: backbone.velocity(lanes), 3)
    set_batch_invariant(True)
    return kept_s / dropped_s
