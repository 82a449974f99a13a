"""Decides whether a backbone is batch invariant, so that a lane's bits do not depend on its batch-mates.

Invariance holds by construction (batch-invariant products, attention by branch, fp32 latents).  The probe
runs one lane alone and among others of other shapes and compares the bits.  Where invariance is not
required, batch-invariant products are dropped if they cost too much time.
"""

import torch

from lego_serve.engine.calibration import fastest, sample_lane
from lego_serve.errors import ConfigError
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.lane_input import LaneInput

MAX_COST = 1.05  # the step time that batch-invariant products may take, over that without, where they are not required
SIDES = (4, 6, 8)  # of the probe's images, in tokens


def ensure_batch_invariance(backbone: Backbone, *, required: bool) -> str:
    """Set whether this backbone's products are batch-invariant; return a sentence for the log.

    No other model in the process is affected.  Raises ConfigError where invariance is required and this device
    does not give it.
    """
    backbone.linear_ops.batch_invariant = True
    if required:
        if not is_batch_invariant(backbone):
            raise ConfigError("`batch_invariant: true` is not possible on this device; choose `false`")
        return "required and checked: a lane's bits are the same alone and among batch-mates"
    cost = row_rule_cost(backbone)
    if cost <= MAX_COST:
        return f"not required; no rule dropped, batch-invariant products cost {100 * (cost - 1):.1f} %"
    backbone.linear_ops.batch_invariant = False
    return f"not required; batch-invariant products dropped, they cost {100 * (cost - 1):.1f} %"


def is_batch_invariant(backbone: Backbone) -> bool:
    """Check that one lane's velocity has the same bits alone and among lanes of other shapes."""
    mates = [sample_lane(backbone, side, seed=side) for side in SIDES]
    first = sample_lane(backbone, SIDES[0], seed=99)
    alone = backbone.velocity([first])[0]
    batches: list[tuple[list[LaneInput], int]] = [
        ([first, *mates], 0),
        ([*mates, first], len(mates)),
        ([first] * 4, 3),
    ]
    return all(torch.equal(backbone.velocity(batch)[index], alone) for batch, index in batches)


def row_rule_cost(backbone: Backbone) -> float:
    """Measure the step time with batch-invariant products over that without, for a few lanes.

    Leaves batch-invariant products on.
    """
    lanes = [sample_lane(backbone, SIDES[-1])] * 4
    stable_s = fastest(lambda: backbone.velocity(lanes), 3)
    backbone.linear_ops.batch_invariant = False
    plain_s = fastest(lambda: backbone.velocity(lanes), 3)
    backbone.linear_ops.batch_invariant = True
    return stable_s / plain_s
