"""The start-up probe: it tells a backbone that keeps its lanes apart from one that does not."""

from collections.abc import Sequence

import pytest
import torch

from lego_serve.engine import batch_invariance
from lego_serve.errors import ConfigError
from lego_serve.models.ragged import batch_invariant
from lego_serve.models.ragged.conditioning import Conditioning, LatentShape, Prepared
from lego_serve.models.ragged.lane_input import LaneInput


class FakeBackbone:
    """Answers a lane's own latents, plus a share of its batch-mates' where it leaks."""

    shape = LatentShape(4, 8, 16)
    text_width, pooled_width = 8, 8
    classifier_free = True
    is_told_guidance = False
    bucket_rows = 1
    device = torch.device("cpu")

    def __init__(self, leak: float) -> None:
        self.leak = leak

    def prepare(self, cond: Conditioning) -> Prepared:
        """As given."""
        return Prepared(cond.tokens, cond.pooled)

    def velocity(self, lanes: Sequence[LaneInput]) -> list[torch.Tensor]:
        """The latents, and the leak."""
        total = sum(float(lane.latents.sum()) for lane in lanes)
        return [lane.latents + self.leak * (total - float(lane.latents.sum())) for lane in lanes]


def test_a_backbone_that_keeps_lanes_apart_is_strict() -> None:
    """Equal bits alone and among others."""
    assert batch_invariance.apply_fidelity(FakeBackbone(0.0), "strict").startswith("strict")


def test_a_backbone_whose_lanes_leak_is_refused_in_strict() -> None:
    """One bit of difference is enough, and the message names the way out."""
    with pytest.raises(ConfigError, match="choose `fast`"):
        batch_invariance.apply_fidelity(FakeBackbone(1e-6), "strict")


@pytest.mark.parametrize(("cost", "kept"), [(1.0, True), (1.2, False)])
def test_fast_drops_a_rule_that_costs_over_a_twentieth(
    cost: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says what it cost."""
    monkeypatch.setattr(batch_invariance, "row_rule_cost", lambda backbone: cost)
    try:
        said = batch_invariance.apply_fidelity(FakeBackbone(0.0), "fast")
        assert batch_invariant.rows_are_kept_stable() == kept
        assert f"{100 * (cost - 1):.1f} %" in said
    finally:
        batch_invariant.keep_rows_stable(True)
