"""The FLUX forward pass against diffusers' own, with guidance told and without."""

import pytest
import torch
from diffusers import FluxTransformer2DModel

from lego_serve.models.families.flux import FluxBackbone
from tests.support.builders import RawLane, raw_lane

FORMS = {"FLUX.1-dev": True, "FLUX.1-schnell": False}


def transformer(form: str) -> FluxTransformer2DModel:
    """A miniature with weights that hide nothing."""
    torch.manual_seed(0)
    module = FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=48, pooled_projection_dim=32, guidance_embeds=FORMS[form], axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    for weight in module.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.1)
    return module.eval()


@torch.no_grad()
def oracle(module: FluxTransformer2DModel, of: RawLane) -> torch.Tensor:
    """The velocity as diffusers' pipeline computes it, latents packed and unpacked by hand."""
    channels, height, width = of.latents.shape
    h, w = height // 2, width // 2
    packed = of.latents.view(channels, h, 2, w, 2).permute(1, 3, 0, 2, 4).reshape(1, h * w, channels * 4)
    places = torch.zeros(h, w, 3)
    places[..., 1], places[..., 2] = torch.arange(h)[:, None], torch.arange(w)[None]
    said = module(
        hidden_states=packed,
        encoder_hidden_states=of.cond.tokens[None],
        pooled_projections=of.cond.pooled[None],
        timestep=torch.tensor([of.time]),
        img_ids=places.view(-1, 3),
        txt_ids=torch.zeros(of.cond.tokens.shape[0], 3),
        guidance=torch.tensor([of.guidance]) if module.config.guidance_embeds else None,
    ).sample[0]
    return said.view(h, w, channels, 2, 2).permute(2, 0, 3, 1, 4).reshape(channels, height, width)


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
    said = backbone.velocity([lane.for_model(backbone) for lane in lanes()])
    for mine, of in zip(said, lanes(), strict=True):
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
