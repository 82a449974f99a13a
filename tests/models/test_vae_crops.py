"""Decoding what an edit changed, against decoding all of it."""

import random
from dataclasses import replace

import pytest
import torch

from lego_serve.image_metrics import psnr, ssim
from lego_serve.models import vae_crops
from lego_serve.models.loading import load_vae
from lego_serve.models.registry import ModelSpec
from lego_serve.models.vae_crops import MARGIN, Box, pays
from lego_serve.zoo.world.edit_tasks import held_out_edits, latent_mask
from lego_serve.zoo.world.scenes import render

SPEC = ModelSpec("lego-tiny", "builtin:lego-tiny", max_sequence_length=0)


@pytest.fixture(scope="module")
def vae():
    """The one that ships."""
    return load_vae(SPEC)


def test_a_box_is_the_least_that_holds_a_mask_and_grows_as_far_as_the_image() -> None:
    """By hand."""
    mask = torch.zeros(8, 10, dtype=torch.bool)
    mask[2, 3] = mask[5, 9] = True
    box = Box.around(mask)
    assert box == Box(2, 6, 3, 10)
    assert box.grown(4, 8, 10) == Box(0, 8, 0, 10)
    assert not pays(box, 8, 10)
    assert pays(Box(10, 14, 10, 14), 32, 32)


@pytest.mark.parametrize("side", [128, 256])
def test_a_decoded_box_is_close_to_that_of_the_whole(vae, side) -> None:
    """Edited images' latents, with their templates' statistics: nobody sees a difference."""
    alike, refused = [], 0
    for task in held_out_edits(12, side):
        [before, after] = vae.encode(torch.stack([task.template, rendered(task)]))
        mask = latent_mask(task.mask, 8)
        latents = torch.where(mask[None], after.mean, before.mean)
        whole = vae.decode(latents[None])[0]
        box = Box.around(mask)
        part = vae.decode_box(latents, box, vae.statistics(before.mean))
        if part is None:
            refused += 1
            continue
        assert part.shape == (8 * (box.bottom - box.top), 8 * (box.right - box.left), 3)
        wanted = whole[8 * box.top : 8 * box.bottom, 8 * box.left : 8 * box.right].numpy()
        everywhere = torch.ones(part.shape[:2], dtype=torch.bool).numpy()
        assert psnr(part.numpy(), wanted, everywhere) > 30
        alike.append(ssim(part.numpy(), wanted, everywhere))
    assert refused <= 4
    assert min(alike) > 0.95
    assert sum(alike) / len(alike) > 0.985


def test_an_edit_that_changes_what_lies_outside_is_decoded_whole(vae) -> None:
    """As it is where another image is put in the mask's place: to the bit, and elsewhere only the box is filled."""
    for seed in range(3):
        noise = torch.randint(0, 256, (128, 128, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        [task] = held_out_edits(1, 128)
        [before, other] = vae.encode(torch.stack([task.template, noise]))
        mask = latent_mask(task.mask, 8)
        latents = torch.where(mask[None], 3 * other.mean, before.mean)
        made = vae.decode_within(latents[None], mask, lambda z=before.mean: vae.statistics(z))
        assert torch.equal(made, vae.decode(latents[None]))
    same = vae.decode_within(before.mean[None], mask, lambda: vae.statistics(before.mean))[0]
    pixels = mask.repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert not same[~pixels].any()
    assert same[pixels].any()


def test_the_box_of_everything_with_its_own_statistics_is_the_whole() -> None:
    """But for rounding, in the dtype that rounds little."""
    vae = load_vae(replace(SPEC, dtype="float32"))
    [task] = held_out_edits(1, 128)
    latents = vae.encode(task.template[None])[0].mean
    part = vae.decode_box(latents, Box(0, 16, 0, 16), vae.statistics(latents))
    assert (part.int() - vae.decode(latents[None])[0].int()).abs().max() <= 1
    assert MARGIN > 0


def test_norms_of_a_part_hold_in_half_precision() -> None:
    """With the sums of the whole a crop's values are those of the whole, also where the mean is far from 0."""
    norm = torch.nn.GroupNorm(2, 8).bfloat16()
    x = (30 + torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(2))).bfloat16()
    box = Box(4, 8, 4, 8)
    outside = vae_crops._sum_outside(vae_crops._sum_by_cells(x, 2, 1)[None], box, 1)[0]
    with torch.no_grad():
        part = vae_crops._norm_crop(norm, x[..., 4:8, 4:8], outside, 1 / 16)
        whole = torch.nn.functional.group_norm(x.float(), 2)
    assert (part.float() - whole[..., 4:8, 4:8]).abs().max() < 0.3  # of values up to 4, at a step of 0.125 around 30


def test_the_decoder_is_as_it_was_afterwards(vae) -> None:
    """The same bits as before a box was decoded."""
    [task] = held_out_edits(1, 128)
    latents = vae.encode(task.template[None])[0].mean
    before = vae.decode(latents[None])
    vae.decode_box(latents, Box(4, 8, 4, 8), vae.statistics(latents))
    assert torch.equal(vae.decode(latents[None]), before)


def rendered(task) -> torch.Tensor:
    """What the edit is to become."""
    side = task.template.shape[0]
    [image] = render([task.after.scene], side, side, random.Random(1))
    return ((image.permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8)
