"""Edits with FLUX: diffusers' inpainting as the oracle, and what reading a template's activations changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxInpaintPipeline, FluxPipeline

from lego_serve.core.editing.reuse import Quality
from lego_serve.engine.lane_state import LaneRequest
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.engine.template_store import Template
from lego_serve.models.registry import ModelSpec
from tests.support.builders import run_results
from tests.support.edits import HEIGHT, STEPS, WIDTH, edit_lane, made, read, rows_of, template, uneven, with_store

LENGTH, PROMPT = 8, "a red circle on the left"


@pytest.fixture(scope="module")
def spec(flux_folder: Path) -> ModelSpec:
    """It as a configuration would name it."""
    return ModelSpec("mine", str(flux_folder), family="flux", dtype="float32", max_sequence_length=LENGTH)


@pytest.fixture(scope="module")
def family(spec: ModelSpec) -> OfflinePipeline:
    """It with room for a few templates."""
    return with_store(spec)


@pytest.fixture(scope="module")
def image(family: OfflinePipeline) -> Template:
    """An image of noise."""
    return template(family)


def lane(family: OfflinePipeline, of: Template, quality: Quality, **changes: object) -> LaneRequest:
    """An edit; FLUX takes no negative prompt."""
    return edit_lane(family, of, quality, (PROMPT, None), **changes)


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_the_full_path_is_diffusers_inpainting(
    family: OfflinePipeline, image: Template, flux_folder: Path, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same noise, composed of the template's and the request's, every 8-bit value is within 2."""
    mine = family.vae.decode(made(family, lane(family, image, Quality.EXACT, strength=strength))[None])
    mask = uneven(image)
    inside = torch.randn((1, *image.latents.shape), generator=torch.Generator().manual_seed(5))
    composed = torch.where(mask, inside, image.noise[None])
    inpaint = FluxInpaintPipeline(**FluxPipeline.from_pretrained(flux_folder, dtype=torch.float32).components)
    inpaint.set_progress_bar_config(disable=True)
    latents = image.latents[None]
    monkeypatch.setattr(inpaint, "_encode_vae_image", lambda image, generator: latents)
    monkeypatch.setattr("diffusers.pipelines.flux.pipeline_flux_inpaint.randn_tensor", lambda *a, **k: composed)
    pixels = mask.repeat_interleave(8, 0).repeat_interleave(8, 1).float()[None, None]
    reference = inpaint(
        PROMPT, image=np.zeros((1, HEIGHT, WIDTH, 3), np.float32), mask_image=pixels, strength=strength,
        num_inference_steps=STEPS, guidance_scale=4.0, max_sequence_length=LENGTH, output_type="np", width=WIDTH,
        height=HEIGHT, generator=torch.Generator().manual_seed(5),
    ).images  # fmt: skip
    off = (mine.int() - torch.from_numpy((reference * 255).round()).int()).abs().max()
    assert int(off) <= 2


def test_one_step_from_the_templates_own_noise_is_the_full_path(spec: ModelSpec, image: Template) -> None:
    """There the lane is its noised template, so that what it reads is what it would compute: nothing is lost."""
    exactly = with_store(spec, coding="float32")
    alike = {"seed": 77, "steps": 1}
    primed = lane(exactly, image, Quality.HIGH, **alike)
    assert primed.edit is not None
    own = replace(primed.edit, priming_prompts=(primed.cond, primed.cond))
    found = run_results(exactly, replace(primed, edit=own))["edit"]
    whole = made(exactly, lane(exactly, image, Quality.EXACT, **alike))
    torch.testing.assert_close(found.latents, whole, atol=2e-4, rtol=2e-4)
    assert read(found).masked_steps == read(found).primed == 1
    other = made(exactly, primed)  # under another prompt something is
    assert (other - whole).abs().max() > 10 * (found.latents - whole).abs().max()


@pytest.mark.parametrize("quality", Quality)
def test_outside_the_mask_the_latents_are_the_templates(
    family: OfflinePipeline, image: Template, quality: Quality
) -> None:
    """Bit for bit, whatever is read and whatever computed."""
    latents, mask = made(family, lane(family, image, quality)), uneven(image)
    assert torch.equal(latents[:, ~mask], image.latents[:, ~mask])
    assert not torch.equal(latents[:, mask], image.latents[:, mask])


def test_a_mask_of_everything_is_the_full_path_and_a_generation(family: OfflinePipeline, image: Template) -> None:
    """There is nothing to read, and of the template nothing is left."""
    before = set(family.engine.templates)
    whole = torch.ones_like(uneven(image))
    found = []
    for quality in (Quality.HIGH, Quality.EXACT):
        request = lane(family, image, quality)
        assert request.edit is not None
        found.append(made(family, replace(request, edit=replace(request.edit, mask=whole))))
    found.append(made(family, replace(lane(family, image, Quality.EXACT), edit=None)))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert set(family.engine.templates) == before


def test_a_template_too_large_for_the_replica_is_read_as_far_as_it_fits(spec: ModelSpec, image: Template) -> None:
    """With room for two of five steps the first three compute in full; with none all do, and nothing is primed."""
    size = with_store(spec).engine.entry_size(WIDTH, HEIGHT)
    each = size.plain_bytes
    assert size.text_bytes == 0
    for room, fits in ((0, 0), (each - 1, 0), (3 * each - 1, 2), (STEPS * each, STEPS)):
        family = with_store(spec, room)
        stats = [read(run_results(family, lane(family, image, Quality.HIGH))["edit"]) for _ in range(2)]
        assert [each.masked_steps for each in stats] == [fits, fits]
        assert [each.primed for each in stats] == [fits, 0]
        assert family.engine.templates.used_bytes == fits * each


def test_guidance_names_entries_of_a_model_that_is_told_it(flux_form: str, spec: ModelSpec, image: Template) -> None:
    """Of dev another guidance needs its own; schnell does not read it, and they are shared."""
    family = with_store(spec)
    run_results(family, lane(family, image, Quality.HIGH))
    again = read(run_results(family, lane(family, image, Quality.HIGH, guidance=2.0))["edit"])
    assert again.primed == (STEPS if flux_form == "flux-dev" else 0)


def test_less_is_computed_and_what_is_known_is_read(spec: ModelSpec, image: Template) -> None:
    """A lane of a known template weighs its masked rows and its text."""
    family = with_store(spec)
    first, again = (run_results(family, lane(family, image, Quality.HIGH))["edit"] for _ in "ab")
    assert (read(first).primed, read(again).primed) == (STEPS, 0)
    assert torch.equal(first.latents, again.latents)
    family.engine.add(lane(family, image, Quality.HIGH))
    plan = family.engine.plan()
    assert plan is not None
    assert plan.work.rows == rows_of(uneven(image)) + LENGTH == read(again).active_rows + LENGTH
