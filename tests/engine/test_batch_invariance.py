"""The start-up probe: it tells a backbone that keeps its lanes apart from one that does not."""

from collections.abc import Sequence

import pytest
import torch

from lego_serve.engine import batch_invariance
from lego_serve.errors import ConfigError
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.conditioning import Conditioning, LatentShape, PreparedPrompt
from lego_serve.models.ragged.lane_input import LaneInput


class FakeBackbone:
    """Answers a lane's own latents, plus a share of its batch-mates' where it leaks."""

    shape = LatentShape(4, 8, 16)
    text_width, pooled_width = 8, 8
    uses_cfg = True
    guidance_embeds = False
    bucket_rows = 1
    device = torch.device("cpu")

    def __init__(self, leak: float) -> None:
        self.leak = leak
        self.linear_ops = LinearOps()

    def prepare(self, cond: Conditioning) -> PreparedPrompt:
        """As given."""
        return PreparedPrompt(cond.tokens, cond.pooled)

    def velocity(self, lanes: Sequence[LaneInput]) -> list[torch.Tensor]:
        """The latents, and the leak."""
        total = sum(float(lane.latents.sum()) for lane in lanes)
        return [lane.latents + self.leak * (total - float(lane.latents.sum())) for lane in lanes]


def test_a_backbone_that_keeps_lanes_apart_is_batch_invariant() -> None:
    """Equal bits alone and among others."""
    assert batch_invariance.ensure_batch_invariance(FakeBackbone(0.0), required=True).startswith("required and checked")


def test_a_backbone_whose_lanes_leak_is_refused_where_that_is_required() -> None:
    """One bit of difference is enough, and the message names the way out."""
    with pytest.raises(ConfigError, match="choose `false`"):
        batch_invariance.ensure_batch_invariance(FakeBackbone(1e-6), required=True)


@pytest.mark.parametrize(("cost", "kept"), [(1.0, True), (1.2, False)])
def test_a_rule_that_costs_over_a_twentieth_is_dropped_where_none_is_required(
    cost: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For that backbone and no other; the message says what it cost."""
    monkeypatch.setattr(batch_invariance, "row_rule_cost", lambda backbone: cost)
    backbone, other = FakeBackbone(0.0), FakeBackbone(0.0)
    message = batch_invariance.ensure_batch_invariance(backbone, required=False)
    assert backbone.linear_ops.batch_invariant == kept
    assert other.linear_ops.batch_invariant
    assert f"{100 * (cost - 1):.1f} %" in message
