"""Rows appended beside an image's own, next to diffusers' transformers over the concatenated sequence."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lego_serve.models.families.flux import FluxBackbone, pack_latents
from lego_serve.models.families.sd3 import Sd3Backbone
from lego_serve.models.ragged.activations import ACTIVATION_CODECS, Activations, Reuse
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.lane_input import LaneInput
from tests.support.builders import RawLane, raw_lane
from tests.support.transformers import FLUX_FORMS, SD3_FORMS, captured, flux_transformer, sd3_transformer, tokens_of

IMAGE, REFERENCE, TEXT = 64, 15, 7  # rows
FRAME = 1


def reference(model: Backbone, lane: RawLane, coding: str = "float32", seed: int = 9) -> Activations:
    """What an image of 3 by 5 tokens leaves behind that attends to itself alone, at the time and the text of a lane."""
    kept = Activations(ACTIVATION_CODECS[coding])
    latents = raw_lane(seed, 6, 10).latents
    cond = model.prepare(lane.cond)
    cond = replace(cond, tokens=cond.tokens[:0])
    model.velocity([LaneInput(latents, lane.time, lane.guidance, cond, None, capture=kept, frame=FRAME)])
    return kept


def masked_attention(attention: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Attention in which the rows of the reference, behind the image's, see each other alone."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **more: Any) -> torch.Tensor:
        rows = q.shape[-2]
        is_reference = torch.zeros(rows, dtype=torch.bool)
        is_reference[IMAGE : IMAGE + REFERENCE] = True
        return attention(q, k, v, attn_mask=~is_reference[:, None] | is_reference[None, :], **more)

    return attend


def sd3_concatenated(transformer: Any, lane: RawLane, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The image's tokens of diffusers' SD3 over image and reference, position embeddings as for each alone."""
    embed = transformer.pos_embed
    both = torch.cat([embed(lane.latents[None]), embed(raw_lane(9, 6, 10).latents[None])], dim=1)
    with monkeypatch.context() as patches:
        # One sequence of both images; what comes out is folded as a single row of tokens.
        patches.setattr(transformer.pos_embed, "forward", lambda _: both)
        patches.setattr(F, "scaled_dot_product_attention", masked_attention(F.scaled_dot_product_attention))
        out = transformer(
            hidden_states=torch.zeros(1, 4, 2, 2 * (IMAGE + REFERENCE)),
            encoder_hidden_states=lane.cond.tokens[None],
            pooled_projections=lane.cond.pooled[None],
            timestep=torch.tensor([lane.time * 1000]),
            return_dict=False,
        )[0][0]
    return tokens_of(out)[:IMAGE]


@pytest.mark.parametrize("form", SD3_FORMS)
def test_an_sd3_lane_with_appended_rows_is_that_of_the_concatenated_sequence(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within fp32 rounding: nothing of the reference depends on the image, so nothing is lost by keeping it."""
    transformer, lane = sd3_transformer(form), raw_lane(1, guidance=1.0)
    model = Sd3Backbone(sd3_transformer(form), 8)
    kept = reference(model, lane)
    plain = model.velocity([lane.for_model(model)])[0]
    found = model.velocity([replace(lane.for_model(model), appended=(kept,))])[0]
    with torch.inference_mode():
        wanted = sd3_concatenated(transformer, lane, monkeypatch)
    torch.testing.assert_close(tokens_of(found), wanted, rtol=1e-4, atol=2e-5)
    assert (found - plain).abs().max() > 0.01  # it does see the reference


@pytest.mark.parametrize("form", FLUX_FORMS)
def test_a_flux_lane_with_appended_rows_is_that_of_the_concatenated_sequence(form: str) -> None:
    """In double and single blocks; the reference stands in a frame of its own, as FLUX.1 Kontext's does."""
    transformer, lane = flux_transformer(form), raw_lane(1)
    model = FluxBackbone(flux_transformer(form), 8)
    kept = reference(model, lane)
    found = model.velocity([replace(lane.for_model(model), appended=(kept,))])[0]
    rows = TEXT + IMAGE + REFERENCE
    is_reference = torch.arange(rows) >= TEXT + IMAGE
    ids = [
        torch.stack([torch.full((h * w,), frame), torch.arange(h * w) // w, torch.arange(h * w) % w], dim=1)
        for frame, h, w in ((0, 8, 8), (FRAME, 3, 5))
    ]
    sequence = [pack_latents(lane.latents, (8, 8)), pack_latents(raw_lane(9, 6, 10).latents, (3, 5))]
    with torch.inference_mode():
        wanted = transformer(
            hidden_states=torch.cat(sequence)[None],
            encoder_hidden_states=lane.cond.tokens[None],
            pooled_projections=lane.cond.pooled[None],
            timestep=torch.tensor([lane.time]),
            guidance=torch.tensor([lane.guidance]) if FLUX_FORMS[form] else None,
            img_ids=torch.cat(ids),
            txt_ids=torch.zeros(TEXT, 3),
            joint_attention_kwargs={"attention_mask": ~is_reference[:, None] | is_reference[None, :]},
            return_dict=False,
        )[0][0, :IMAGE]
    torch.testing.assert_close(pack_latents(found, (8, 8)), wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_appended_rows_do_not_tie_a_lane_to_its_mates(family: str) -> None:
    """Equal bits alone, beside lanes with the same rows, others and none, and beside the pass that makes them."""
    model: Backbone = (
        Sd3Backbone(sd3_transformer("SD3.5-medium"), 8)
        if family == "sd3"
        else FluxBackbone(flux_transformer("FLUX.1-dev"), 8)
    )
    raw = raw_lane(1)
    lane, mate = raw.for_model(model), raw_lane(2, 12, 20).for_model(model)
    kept, other = reference(model, raw), reference(model, raw, "bfloat16", seed=11)
    two = replace(lane, appended=(kept, other))
    alone = model.velocity([two])[0]
    mates = [mate, replace(mate, appended=(kept,)), replace(raw_lane(3).for_model(model), appended=(kept, other))]
    assert torch.equal(model.velocity([*mates, lane, two])[4], alone)
    fresh = Activations(ACTIVATION_CODECS["float32"])
    cond = replace(lane.cond, tokens=lane.cond.tokens[:0])
    primer = LaneInput(raw_lane(9, 6, 10).latents, raw.time, raw.guidance, cond, None, capture=fresh, frame=FRAME)
    assert torch.equal(model.velocity([replace(lane, appended=(fresh, other)), mate, primer])[0], alone)


def test_an_edit_may_have_appended_rows_as_well() -> None:
    """With kept rows that were computed beside the reference it is the whole lane, in the rows that it computes."""
    model = Sd3Backbone(sd3_transformer("SD3.5-medium"), 8)
    raw = raw_lane(1)
    lane = replace(raw.for_model(model), appended=(reference(model, raw),))
    whole, cond, negative = captured(model, lane)
    active = torch.tensor([3, 4, 17, 40, 63])
    part = model.velocity([replace(lane, reuse=Reuse(active, cond, negative, reads_text=True))])[0]
    torch.testing.assert_close(tokens_of(part)[active], tokens_of(whole)[active], rtol=0, atol=2e-5)
