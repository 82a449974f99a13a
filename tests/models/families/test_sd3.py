"""The SD3 forward pass against diffusers' own, for every form of the family."""

from dataclasses import replace

import pytest
import torch
from diffusers import SD3Transformer2DModel

from lego_serve.models.families.sd3 import Sd3Backbone
from lego_serve.models.ragged import batch_invariant
from lego_serve.models.ragged.conditioning import Conditioning
from tests.support.builders import RawLane, raw_lane
from tests.support.transformers import SD3_FORMS as FORMS
from tests.support.transformers import sd3_transformer as transformer


@torch.no_grad()
def oracle(module: SD3Transformer2DModel, of: RawLane) -> torch.Tensor:
    """The guided velocity as diffusers' pipeline computes it."""

    def predict(cond: Conditioning) -> torch.Tensor:
        out: torch.Tensor = module(
            hidden_states=of.latents[None],
            encoder_hidden_states=cond.tokens[None],
            pooled_projections=cond.pooled[None],
            timestep=torch.tensor([of.time * 1000]),
        ).sample[0]
        return out

    if not of.is_guided:
        return predict(of.cond)
    return predict(of.negative) + of.guidance * (predict(of.cond) - predict(of.negative))


@pytest.mark.parametrize("form", FORMS)
def test_a_ragged_batch_says_what_diffusers_says_lane_by_lane(form: str) -> None:
    """Lanes of other sizes, guidance and text lengths in one pass equal diffusers one at a time."""
    module = transformer(form)
    lanes = [
        raw_lane(1),
        raw_lane(2, 12, 20),
        raw_lane(3, 32, 8, guidance=1.0),
        raw_lane(4, text_rows=12),
        raw_lane(5, 14, 16),
    ]
    backbone = Sd3Backbone(module, 8)
    velocities = backbone.velocity([lane.for_model(backbone) for lane in lanes])
    for mine, of in zip(velocities, lanes, strict=True):
        torch.testing.assert_close(mine, oracle(module, of), atol=2e-4, rtol=1e-4)


def test_prompts_of_other_lengths_are_guided_the_right_way_round() -> None:
    """A negative prompt longer than the prompt lies behind it in memory and is still the negative."""
    module = transformer("lego-tiny")
    backbone = Sd3Backbone(module, 8)
    lane = replace(raw_lane(1, text_rows=7), negative=raw_lane(2, text_rows=12).negative)
    torch.testing.assert_close(
        backbone.velocity([lane.for_model(backbone)])[0], oracle(module, lane), atol=2e-4, rtol=1e-4
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_lane_has_the_same_bits_alone_and_with_batch_mates(form: str) -> None:
    """Nothing of a lane's velocity depends on who shares its pass."""
    backbone = Sd3Backbone(transformer(form), 8)
    mine = raw_lane(1, 12, 12).for_model(backbone)
    alone = backbone.velocity([mine])[0]
    raw = [raw_lane(10 + i, 8 + 2 * (i % 5), 8 + 4 * (i % 3), guidance=float(1 + i % 2)) for i in range(7)]
    mates = [lane.for_model(backbone) for lane in raw]
    for place in (0, 3, 7):
        together = backbone.velocity([*mates[:place], mine, *mates[place:]])
        assert torch.equal(together[place], alone), f"bits changed at place {place}"


@pytest.mark.parametrize("form", FORMS)
def test_filling_rows_up_to_buckets_changes_no_bit(form: str) -> None:
    """Rows that only fill a bucket are seen by nobody."""
    backbone = Sd3Backbone(transformer(form), 8)
    lanes = [raw_lane(1).for_model(backbone), raw_lane(2, 12, 20).for_model(backbone)]
    plain = backbone.velocity(lanes)
    backbone.bucket_rows = 128
    for filled, unfilled in zip(backbone.velocity(lanes), plain, strict=True):
        assert torch.equal(filled, unfilled)


def test_dropping_batch_invariant_products_is_a_matter_of_one_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No product of it asks for a number of rows any more; another in the process keeps its lanes' bits."""
    dropped, other = Sd3Backbone(transformer("SD3.5-medium"), 8), Sd3Backbone(transformer("SD3.5-medium"), 8)
    dropped.linear_ops.batch_invariant = False
    lane, mate = raw_lane(1, 12, 12), raw_lane(2)
    alone = other.velocity([lane.for_model(other)])[0]
    assert torch.equal(other.velocity([mate.for_model(other), lane.for_model(other)])[1], alone)
    with monkeypatch.context() as patched:
        patched.setattr(batch_invariant, "stable_rows", lambda *_: pytest.fail("a layer has products of its own"))
        torch.testing.assert_close(dropped.velocity([lane.for_model(dropped)])[0], alone, atol=1e-4, rtol=1e-4)


def test_position_embeddings_are_kept_for_a_bounded_number_of_sizes() -> None:
    """However many sizes are asked for, memory does not grow with them."""
    backbone = Sd3Backbone(transformer(next(iter(FORMS))), 8)
    sizes = [(height, width) for height in range(1, 8) for width in range(1, 8)]
    first = [backbone._position(size) for size in sizes]
    assert backbone._position.cache_info().currsize == 16
    assert all(torch.equal(backbone._position(size), position) for size, position in zip(sizes, first, strict=True))
