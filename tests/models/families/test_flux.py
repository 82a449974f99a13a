"""The FLUX forward pass against diffusers' own, with guidance told and without."""

import pytest
import torch
from diffusers import FluxTransformer2DModel

from lego_serve.models.families.flux import FluxBackbone
from lego_serve.models.ragged import batch_invariant
from tests.support.builders import RawLane, raw_lane
from tests.support.transformers import FLUX_FORMS as FORMS
from tests.support.transformers import flux_transformer as transformer


@torch.no_grad()
def oracle(module: FluxTransformer2DModel, of: RawLane) -> torch.Tensor:
    """The velocity as diffusers' pipeline computes it, latents packed and unpacked by hand."""
    channels, height, width = of.latents.shape
    h, w = height // 2, width // 2
    packed = of.latents.view(channels, h, 2, w, 2).permute(1, 3, 0, 2, 4).reshape(1, h * w, channels * 4)
    places = torch.zeros(h, w, 3)
    places[..., 1], places[..., 2] = torch.arange(h)[:, None], torch.arange(w)[None]
    velocity = module(
        hidden_states=packed,
        encoder_hidden_states=of.cond.tokens[None],
        pooled_projections=of.cond.pooled[None],
        timestep=torch.tensor([of.time]),
        img_ids=places.view(-1, 3),
        txt_ids=torch.zeros(of.cond.tokens.shape[0], 3),
        guidance=torch.tensor([of.guidance]) if module.config.guidance_embeds else None,
    ).sample[0]
    return velocity.view(h, w, channels, 2, 2).permute(2, 0, 3, 1, 4).reshape(channels, height, width)


def lanes() -> list[RawLane]:
    """Lanes of several sizes, guidances and text lengths."""
    return [
        raw_lane(1), raw_lane(2, 12, 20, guidance=2.0), raw_lane(3, 32, 8, guidance=1.0),
        raw_lane(4, text_rows=12), raw_lane(5, 14, 16), raw_lane(6),
    ]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_ragged_batch_says_what_diffusers_says_lane_by_lane(form: str) -> None:
    """Lanes of other sizes, guidance and text lengths in one pass equal diffusers one at a time."""
    module = transformer(form)
    backbone = FluxBackbone(module, 8)
    velocities = backbone.velocity([lane.for_model(backbone) for lane in lanes()])
    for mine, of in zip(velocities, lanes(), strict=True):
        torch.testing.assert_close(mine, oracle(module, of), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_a_lane_has_the_same_bits_alone_and_with_batch_mates(form: str) -> None:
    """Nothing of a lane's velocity depends on who shares its pass, nor on rows that fill a bucket."""
    backbone = FluxBackbone(transformer(form), 8)
    mine = raw_lane(9, 12, 12).for_model(backbone)
    alone = backbone.velocity([mine])[0]
    mates = [lane.for_model(backbone) for lane in lanes()]
    for bucket in (1, 64):
        backbone.bucket_rows = bucket
        for place in (0, 3, 6):
            together = backbone.velocity([*mates[:place], mine, *mates[place:]])
            assert torch.equal(together[place], alone), f"bits changed at place {place} with buckets of {bucket}"


def test_blocks_taken_with_release_leave_no_second_copy() -> None:
    """A backbone that releases diffusers' modules says the same and leaves the blocks empty."""
    kept, taken = transformer("FLUX.1-dev"), transformer("FLUX.1-dev")
    mine, released = FluxBackbone(kept, 8), FluxBackbone(taken, 8, release=True)
    lane = raw_lane(1)
    assert torch.equal(mine.velocity([lane.for_model(mine)])[0], released.velocity([lane.for_model(released)])[0])
    assert not list(taken.transformer_blocks.parameters()) + list(taken.single_transformer_blocks.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_no_product_is_batch_invariant_where_that_is_dropped(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer multiplies as its backbone says, embeddings too."""
    backbone = FluxBackbone(transformer(form), 8)
    stable = backbone.velocity([lane.for_model(backbone) for lane in lanes()])
    backbone.linear_ops.batch_invariant = False
    monkeypatch.setattr(batch_invariant, "stable_rows", lambda *_: pytest.fail("a layer has products of its own"))
    plain = backbone.velocity([lane.for_model(backbone) for lane in lanes()])
    for mine, other in zip(plain, stable, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
