"""Kept activations of FLUX: what masked lanes compute, next to a forward pass that computes everything."""

from dataclasses import replace

import pytest
import torch

from lego_serve.models.families.flux import FluxBackbone
from lego_serve.models.ragged.activations import ACTIVATION_CODECS, Activations, Reuse, entry_bytes
from lego_serve.models.ragged.lane_input import LaneInput
from tests.support.builders import raw_lane
from tests.support.transformers import FLUX_FORMS as FORMS
from tests.support.transformers import flux_transformer as transformer
from tests.support.transformers import tokens_of

ACTIVE = torch.tensor([3, 4, 17, 40, 59])


def captured(model: FluxBackbone, lane: LaneInput, coding: str = "float32") -> tuple[torch.Tensor, Activations]:
    """A lane's velocity, and what it leaves behind."""
    kept = Activations(ACTIVATION_CODECS[coding])
    return model.velocity([replace(lane, capture=kept)])[0], kept


@pytest.mark.parametrize("form", FORMS)
def test_rows_computed_from_ones_own_activations_are_those_of_the_whole(form: str) -> None:
    """In double blocks and single ones: with what the lane itself left, any part of it comes out as in the full pass.

    The image is no square, so that rows taken from wrong places would show in their rotations.
    """
    model = FluxBackbone(transformer(form), 8)
    lane = raw_lane(1, 12, 20).for_model(model)
    whole, kept = captured(model, lane)
    assert kept.by_attention.keys() == {"0", "1", "single.0", "single.1", "single.2"}
    part = model.velocity([replace(lane, reuse=Reuse(ACTIVE, kept))])[0]
    torch.testing.assert_close(tokens_of(part)[ACTIVE], tokens_of(whole)[ACTIVE], rtol=1e-4, atol=2e-5)
    outside = torch.ones(60, dtype=torch.bool)
    outside[ACTIVE] = False
    assert not tokens_of(part)[outside].any()
    assert torch.equal(whole, model.velocity([lane])[0])  # who leaves something behind says what all others say


def test_an_entry_takes_the_bytes_that_were_predicted() -> None:
    """For all attentions, by heads and their width."""
    model = FluxBackbone(transformer("FLUX.1-dev"), 8)
    for coding in ACTIVATION_CODECS.values():
        _, kept = captured(model, raw_lane(1, 12, 20).for_model(model), coding.name)
        assert kept.size_bytes == entry_bytes(coding, model.attentions, 60, 0)


@pytest.mark.parametrize("bucket", [1, 64])
def test_a_masked_lane_has_the_same_bits_alone_and_among_others(bucket: int) -> None:
    """Whole lanes, other masked ones, and the pass that leaves what it reads, all in one batch."""
    model = FluxBackbone(transformer("FLUX.1-dev"), 8)
    lane, other = raw_lane(1, 12, 20).for_model(model), raw_lane(2, text_rows=12).for_model(model)
    _, kept = captured(model, lane, "int8")
    _, kept_2 = captured(model, other, "int8")
    masked = replace(lane, reuse=Reuse(ACTIVE, kept))
    alone = model.velocity([masked])[0]
    model.bucket_rows = bucket
    mates = [
        replace(other, reuse=Reuse(torch.tensor([0, 63]), kept_2)),
        replace(lane, reuse=Reuse(torch.arange(30), kept)),
    ]
    assert torch.equal(model.velocity([other, *mates, masked, lane])[3], alone)
    fresh = Activations(ACTIVATION_CODECS["int8"])
    primer = replace(lane, capture=fresh)
    together = replace(lane, reuse=Reuse(ACTIVE, fresh))
    assert torch.equal(model.velocity([together, primer, other])[0], alone)
