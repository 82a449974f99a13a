"""Decoding what an edit changed, against decoding all of it."""

import pytest
import torch

from lego_serve.likeness import psnr, ssim
from lego_serve.models.loading import load_vae
from lego_serve.models.spec import ModelSpec
from lego_serve.models.vae_crops import MARGIN, Box, pays
from lego_serve.zoo.edit_tasks import held_out_edits, latent_mask

SPEC = ModelSpec("lego-tiny", "builtin:lego-tiny", max_sequence_length=0)


@pytest.fixture(scope="module")
def vae():
    """The one that ships."""
    return load_vae(SPEC)


def test_a_box_is_the_least_that_holds_a_mask_and_grows_as_far_as_the_picture() -> None:
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
    """Edited pictures' latents, with their templates' statistics: nobody sees a difference."""
    for task in held_out_edits(6, side):
        [before, after] = vae.encode(torch.stack([task.template, recoloured(task)]))
        mask = latent_mask(task.mask, 8)
        latents = torch.where(mask[None], after.mean, before.mean)
        whole = vae.decode(latents[None])[0]
        box = Box.around(mask)
        part = vae.decode_box(latents, box, vae.statistics(before.mean))
        assert part.shape == (8 * (box.bottom - box.top), 8 * (box.right - box.left), 3)
        wanted = whole[8 * box.top : 8 * box.bottom, 8 * box.left : 8 * box.right].numpy()
        everywhere = torch.ones(part.shape[:2], dtype=torch.bool).numpy()
        assert psnr(part.numpy(), wanted, everywhere) > 38
        assert ssim(part.numpy(), wanted, everywhere) > 0.98


def test_the_box_of_everything_with_its_own_statistics_is_the_whole(vae) -> None:
    """But for rounding."""
    [task] = held_out_edits(1, 128)
    latents = vae.encode(task.template[None])[0].mean
    part = vae.decode_box(latents, Box(0, 16, 0, 16), vae.statistics(latents))
    assert (part.int() - vae.decode(latents[None])[0].int()).abs().max() <= 1
    assert MARGIN > 0


def test_the_decoder_is_as_it_was_afterwards(vae) -> None:
    """The same bits as before a box was decoded."""
    [task] = held_out_edits(1, 128)
    latents = vae.encode(task.template[None])[0].mean
    before = vae.decode(latents[None])
    vae.decode_box(latents, Box(4, 8, 4, 8), vae.statistics(latents))
    assert torch.equal(vae.decode(latents[None]), before)


def recoloured(task) -> torch.Tensor:
    """The template with its mask's inside turned about."""
    return torch.where(task.mask[..., None], task.template.flip(-1), task.template)
