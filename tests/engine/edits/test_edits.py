"""Edits in the engine: diffusers' inpainting as the oracle, and what reading a template's activations changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3InpaintPipeline, StableDiffusion3Pipeline

from lego_serve.core.editing.reuse import Quality
from lego_serve.engine.edits import Edit
from lego_serve.engine.lane_state import LaneRequest, LaneResult
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.engine.template_store import Template
from lego_serve.errors import RequestError
from lego_serve.models.registry import ModelSpec
from tests.support import edits
from tests.support.builders import run_lanes

SIZE, STEPS = 128, 5
PROMPT, NEGATIVE = "a red circle on the left", "a blue square"


def with_store(folder: Path, budget_bytes: int, coding: str = "bfloat16") -> OfflinePipeline:
    """The model with so many bytes for templates."""
    return edits.with_store(ModelSpec("m", str(folder), dtype="float32", max_sequence_length=0), budget_bytes, coding)


@pytest.fixture(scope="module")
def family(tiny_folder: Path) -> OfflinePipeline:
    """lego-tiny's architecture with random weights and room for a few templates."""
    return with_store(tiny_folder, 64 * 2**20)


@pytest.fixture(scope="module")
def template(family: OfflinePipeline) -> Template:
    """An image of noise, encoded, with noise of its own."""
    image = torch.randint(0, 256, (1, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Template.of(family.vae.encode(image)[0].mean, 77)


def mask_of(template: Template, *box: int) -> torch.Tensor:
    """A mask over latent pixels: top, bottom, left and right of a box."""
    mask = torch.zeros(template.latents.shape[1:], dtype=torch.bool)
    top, bottom, left, right = box or (2, 8, 4, 10)
    mask[top:bottom, left:right] = True
    return mask


def lane(
    family: OfflinePipeline,
    template: Template,
    quality: Quality,
    key: str = "edit",
    strength: float = 1.0,
    **changes: object,
) -> LaneRequest:
    """A guided edit whose template is primed with the empty prompt."""
    cond, negative, empty = family.text.encode([PROMPT, NEGATIVE, ""])
    edit = Edit(template, mask_of(template), quality, (empty, empty))
    request = LaneRequest(key, SIZE, SIZE, STEPS, 4.0, 5, cond, negative, strength=strength, edit=edit)
    return replace(request, **changes)  # type: ignore[arg-type]


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


def test_less_is_computed_and_the_plan_says_so(family: OfflinePipeline, template: Template) -> None:
    """A lane of a known template weighs its masked rows; one of an unknown template its priming besides."""
    known = lane(family, template, Quality.HIGH)
    run_lanes(family, known)
    family.engine.add(known)
    plan = family.engine.plan()
    assert plan is not None
    text = int(known.cond.tokens.shape[0])
    assert plan.work.rows == 2 * active(template) + 2 * text
    family.engine.cancel("edit")
    family.engine.add(lane(family, Template.of(template.latents, 78), Quality.HIGH))
    first = family.engine.plan()
    assert first is not None
    priming = 64 + text
    assert first.work.rows - plan.work.rows == priming
    family.engine.add(lane(family, Template.of(template.latents, 78), Quality.HIGH, "twin"))
    both = family.engine.plan()
    assert both is not None
    assert both.work.rows == 2 * plan.work.rows + priming  # which they share
    family.engine.step(first)
    after = family.engine.plan()
    assert after is not None
    assert after.work.rows == 2 * plan.work.rows + priming  # one entry is there now, and another is needed
    family.engine.cancel("edit")
    alone = family.engine.plan()
    assert alone is not None
    assert alone.work.rows == plan.work.rows
    family.engine.cancel("twin")


def active(template: Template) -> int:
    """Tokens the mask touches, counted by hand: latent rows 2 to 8 and columns 4 to 10, two to a token."""
    return 3 * 3


def with_own_negative(request: LaneRequest, *, is_described: bool = True) -> LaneRequest:
    """The same primed as a server does: the unconditional branch with the request's own negative prompt."""
    assert request.edit is not None
    assert request.negative is not None
    primes = request.edit.primes[0], request.negative
    return replace(request, edit=replace(request.edit, primes=primes, is_described=is_described))


def test_the_text_of_the_unconditional_branch_is_read_as_well(tiny_folder: Path, template: Template) -> None:
    """Where words describe the image that primed: fewer rows, other bits, and the same whoever primed."""
    family = with_store(tiny_folder, 64 * 2**20)
    request = with_own_negative(lane(family, template, Quality.HIGH))
    first = run_lanes(family, request)["edit"]
    text = int(request.cond.tokens.shape[0])
    rows = {}
    for name, is_described in (("read", True), ("computed", False)):
        family.engine.add(with_own_negative(request, is_described=is_described))
        plan = family.engine.plan()
        assert plan is not None
        rows[name] = plan.work.rows
        family.engine.cancel("edit")
    assert rows == {"read": 2 * active(template) + text, "computed": 2 * active(template) + 2 * text}
    assert torch.equal(run_lanes(family, request)["edit"], first)
    uncaptioned_first = run_lanes(family, with_own_negative(request, is_described=False))["edit"]
    assert not torch.equal(uncaptioned_first, first)
    torch.testing.assert_close(uncaptioned_first, first, rtol=0, atol=0.5)


def test_a_described_edit_and_one_that_is_not_share_what_the_negative_prompt_primed(
    tiny_folder: Path, template: Template
) -> None:
    """One entry a step for the negative prompt, with its text, and one for the caption, without."""
    family = with_store(tiny_folder, 64 * 2**20)
    store = family.engine.templates
    size = family.engine.entry_size(SIZE, SIZE)
    plain, whole = size.plain_bytes, size.plain_bytes + size.text_bytes
    assert size.rows == 64
    assert plain < whole
    uncaptioned_first = with_own_negative(lane(family, template, Quality.HIGH), is_described=False)
    assert uncaptioned_first.edit is not None
    _, negative = uncaptioned_first.edit.primes
    uncaptioned_first = replace(uncaptioned_first, edit=replace(uncaptioned_first.edit, primes=(negative, negative)))
    run_lanes(family, uncaptioned_first)
    assert store.used_bytes == STEPS * whole  # both branches are primed alike
    run_lanes(family, with_own_negative(lane(family, template, Quality.HIGH)))
    assert store.used_bytes == STEPS * (whole + plain)


def test_what_is_predicted_is_what_is_used(tiny_folder: Path, template: Template) -> None:
    """In each coding, an entry's bytes as the store counts them, and as its tensors take them."""
    for coding in ("float32", "bfloat16", "int8"):
        family = with_store(tiny_folder, 64 * 2**20, coding)
        mine = replace(template, key=f"mine.{template.key}")
        run_lanes(family, lane(family, mine, Quality.HIGH))
        predicted = STEPS * family.engine.entry_size(SIZE, SIZE).plain_bytes  # both branches are primed alike
        assert family.engine.templates.used_bytes == predicted
        assert family.engine.templates.bytes_of("mine") == pytest.approx(predicted, rel=0.05)
        assert family.engine.templates.bytes_of("other") == 0


def test_a_pinned_template_is_never_evicted_by_others(tiny_folder: Path, template: Template) -> None:
    """Room for two templates, one pinned: of three more edited after it, it alone is still there, and is not primed."""
    one = with_store(tiny_folder, 64 * 2**20).engine.entry_size(SIZE, SIZE).plain_bytes * STEPS
    family = with_store(tiny_folder, 2 * one)
    pinned = replace(template, key=f"pinned.{template.key}")
    first = with_pin(lane(family, pinned, Quality.HIGH), "a")
    wanted = run_lanes(family, first)["edit"]
    store = family.engine.templates
    assert store.pinned_bytes == one
    for seed in range(3):
        other = Template.of(template.latents, seed, "other")
        for _ in range(3):  # asked for more often than the pinned one, and so worth more
            run_lanes(family, lane(family, other, Quality.HIGH))
    assert store.bytes_of("pinned") == one
    passes: list[int] = []
    family.engine.add(first)
    while family.engine.lanes:
        for _, outcome in family.engine.step():
            assert isinstance(outcome, LaneResult)
            assert outcome.reuse is not None
            passes.append(outcome.reuse.primed)
            assert torch.equal(outcome.latents, wanted)
    assert passes == [0]


def test_a_template_that_is_forgotten_in_the_middle_is_computed_again(tiny_folder: Path, template: Template) -> None:
    """The edit ends with the bits it always has, and its pin holds nothing any more."""
    family = with_store(tiny_folder, 64 * 2**20)
    mine = replace(template, key=f"mine.{template.key}")
    request = with_pin(lane(family, mine, Quality.HIGH), "a")
    wanted = run_lanes(family, request)["edit"]
    store = family.engine.templates
    family.engine.add(request)
    for _ in range(2):
        family.engine.step()
    store.forget("mine", "a")
    assert (store.used_bytes, store.pinned_bytes) == (0, 0)
    while family.engine.lanes:
        for _, outcome in family.engine.step():
            assert isinstance(outcome, LaneResult)
            assert torch.equal(outcome.latents, wanted)
    assert store.bytes_of("mine") > 0
    assert store.pinned_bytes == 0
    run_lanes(family, with_pin(request, "b"))
    assert store.pinned_bytes == store.bytes_of("mine")


def with_pin(request: LaneRequest, pin: str) -> LaneRequest:
    """An edit whose template is to stay."""
    assert request.edit is not None
    return replace(request, edit=replace(request.edit, pin=pin))
