"""Edits in the engine: diffusers' inpainting as the oracle, and what reading a template's activations changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3InpaintPipeline, StableDiffusion3Pipeline

from lego_serve.core.editing.reuse import Quality
from lego_serve.engine.lane_state import LaneRequest
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.engine.template_store import Template
from lego_serve.errors import RequestError
from lego_serve.models.registry import ModelSpec
from tests.support.builders import run_lanes
from tests.support.template_edits import NEGATIVE, PROMPT, SIZE, STEPS, lane, mask_of, with_store


def inpainted(
    folder: Path, template: Template, request: LaneRequest, dtype: torch.dtype, patch: pytest.MonkeyPatch
) -> torch.Tensor:
    """diffusers' image, in numbers up to 255, from the template's latents and its noise outside the mask."""
    assert request.edit is not None
    mask = request.edit.mask
    inside = torch.randn((1, *template.latents.shape), generator=torch.Generator().manual_seed(request.seed))
    composed = torch.where(mask, inside, template.noise[None]).to(dtype)
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, dtype=dtype, text_encoder_3=None, tokenizer_3=None)
    # The pipeline knows models of 16 channels and of 33, and asks their configuration alone.
    pipeline.transformer.register_to_config(in_channels=16)
    inpaint = StableDiffusion3InpaintPipeline(**pipeline.components)
    inpaint.set_progress_bar_config(disable=True)
    patch.setattr(inpaint, "_encode_vae_image", lambda image, generator: template.latents[None].to(dtype))
    patch.setattr(
        "diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3_inpaint.randn_tensor",
        lambda *a, **k: composed,
    )
    pixels = mask.repeat_interleave(8, 0).repeat_interleave(8, 1).float()[None, None]
    images = inpaint(
        PROMPT, negative_prompt=NEGATIVE, image=np.zeros((1, SIZE, SIZE, 3), np.float32), mask_image=pixels,
        strength=request.strength, num_inference_steps=STEPS, guidance_scale=4.0, max_sequence_length=0,
        output_type="np", width=SIZE, height=SIZE, generator=torch.Generator().manual_seed(request.seed),
    ).images  # fmt: skip
    return torch.from_numpy(images * 255)


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_the_full_path_is_diffusers_inpainting(
    family: OfflinePipeline, template: Template, tiny_folder: Path, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same noise, composed of the template's and the request's, every 8-bit value is within 2."""
    request = lane(family, template, Quality.EXACT, strength=strength)
    mine = family.vae.decode(run_lanes(family, request)["edit"][None])
    reference = inpainted(tiny_folder, template, request, torch.float32, monkeypatch)
    assert int((mine.int() - reference.round().int()).abs().max()) <= 2


def test_in_bf16_our_error_is_no_larger_than_diffusers(
    template: Template, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an edit in full, against the same in fp32."""
    rounded = OfflinePipeline.load(ModelSpec("m", str(tiny_folder), dtype="bfloat16", max_sequence_length=0))
    request = lane(rounded, template, Quality.EXACT)
    mine = rounded.vae.decode(run_lanes(rounded, request)["edit"][None]).float()
    theirs = inpainted(tiny_folder, template, request, torch.bfloat16, monkeypatch)
    exact = inpainted(tiny_folder, template, request, torch.float32, monkeypatch)
    assert (mine - exact).square().mean() <= 1.1**2 * (theirs - exact).square().mean()


@pytest.mark.parametrize("quality", Quality)
def test_outside_the_mask_the_latents_are_the_templates(
    family: OfflinePipeline, template: Template, quality: Quality
) -> None:
    """Bit for bit, whatever is read and whatever computed."""
    latents = run_lanes(family, lane(family, template, quality))["edit"]
    mask = mask_of(template)
    assert torch.equal(latents[:, ~mask], template.latents[:, ~mask])
    assert not torch.equal(latents[:, mask], template.latents[:, mask])


def test_an_edit_is_the_same_whether_its_template_was_known(tiny_folder: Path, template: Template) -> None:
    """First, again, among others, and on a replica with no room to keep anything: the same bits."""
    family = with_store(tiny_folder, 64 * 2**20)
    first = run_lanes(family, lane(family, template, Quality.HIGH))["edit"]
    assert len(list(family.engine.templates)) == STEPS
    again = run_lanes(family, lane(family, template, Quality.HIGH))["edit"]
    mates = [
        lane(family, template, Quality.HIGH, "twin"),
        lane(family, template, Quality.EXACT, "whole", seed=9),
        replace(lane(family, template, Quality.HIGH, "plain", guidance=1.0), edit=None),
    ]
    among = run_lanes(family, *mates, lane(family, template, Quality.HIGH))["edit"]
    poor = with_store(tiny_folder, 0)
    alone = run_lanes(poor, lane(poor, template, Quality.HIGH))["edit"]
    assert not list(poor.engine.templates)
    assert all(torch.equal(other, first) for other in (again, among, alone))


def test_a_mask_of_everything_is_the_full_path(family: OfflinePipeline, template: Template) -> None:
    """There is nothing to read: the bits are those of ``exact``, and nothing is kept."""
    before = set(family.engine.templates)
    whole = torch.ones(template.latents.shape[1:], dtype=torch.bool)
    found = []
    for quality in (Quality.HIGH, Quality.EXACT):
        request = lane(family, template, quality)
        assert request.edit is not None
        found.append(run_lanes(family, replace(request, edit=replace(request.edit, mask=whole)))["edit"])
    assert torch.equal(*found)
    assert set(family.engine.templates) == before
    plain = run_lanes(family, replace(lane(family, template, Quality.EXACT), edit=None))["edit"]
    assert torch.equal(found[0], plain)


def test_an_entry_evicted_in_the_middle_is_computed_again(tiny_folder: Path, template: Template) -> None:
    """With room for one entry alone an edit and another of a second template end with the bits they always have."""
    family = with_store(tiny_folder, 64 * 2**20)
    other = Template.of(template.latents.flip(-1), 3)
    wanted = run_lanes(family, lane(family, template, Quality.HIGH), lane(family, other, Quality.HIGH, "other"))
    entry = family.engine.templates.used_bytes // (2 * STEPS)
    poor = with_store(tiny_folder, entry)
    found = run_lanes(poor, lane(poor, template, Quality.HIGH), lane(poor, other, Quality.HIGH, "other"))
    assert poor.engine.templates.used_bytes == entry
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_resumed_edit_has_the_bits_of_one_that_was_not(tiny_folder: Path, template: Template) -> None:
    """From its checkpoint, on a replica that has never seen its template."""
    family = with_store(tiny_folder, 64 * 2**20)
    wanted = run_lanes(family, lane(family, template, Quality.HIGH))["edit"]
    family.engine.add(lane(family, template, Quality.HIGH))
    for _ in range(2):
        family.engine.step()
    checkpoint = family.engine.checkpoint("edit")
    elsewhere = with_store(tiny_folder, 64 * 2**20)
    found = run_lanes(elsewhere, lane(elsewhere, template, Quality.HIGH, checkpoint=checkpoint))["edit"]
    assert torch.equal(found, wanted)


def test_sizes_that_do_not_fit_are_refused(family: OfflinePipeline, template: Template) -> None:
    """A mask or a template of another size, and a mask of nothing; no lane is left behind."""
    good = lane(family, template, Quality.HIGH)
    assert good.edit is not None
    small = Template.of(template.latents[:, :8], 1)
    for edit in (
        replace(good.edit, mask=good.edit.mask[:4]),
        replace(good.edit, template=small),
        replace(good.edit, mask=torch.zeros_like(good.edit.mask)),
    ):
        with pytest.raises(RequestError):
            family.engine.add(replace(good, edit=edit))
    assert family.engine.lanes == 0
