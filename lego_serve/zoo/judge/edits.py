"""Measures the quality cost of reusing a template's activations: edits in full and with reuse, from the same noise."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from lego_serve.core.editing.reuse import Quality
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.engine.edits import Edit
from lego_serve.engine.lane_state import LaneRequest, LaneResult
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.template_store import Template, TemplateStore
from lego_serve.errors import LegoError
from lego_serve.image_metrics import psnr, ssim
from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.registry import ModelSpec
from lego_serve.zoo.judge.prompts import faults
from lego_serve.zoo.world.edit_tasks import EditTask, held_out_edits, latent_mask

BATCH = 8
STEPS, GUIDANCE = 20, 4.0
ALIKE = 0.95  # SSIM from which an image counts as good as the full computation's
TEMPLATE_SEED = 2**31
STORE_BYTES = 2**30
# The prompt that a template is primed under: none, another edit's, the template's caption, the edit's own.
PRIMES = ("empty", "another", "caption", "prompt")


@dataclass(frozen=True, slots=True)
class EditMethod:
    """One way to compute edits.

    It has a level of reuse, the prompt that templates are primed under, the coding of kept activations, and whether
    only the part around the mask is decoded.
    """

    quality: Quality
    prime: str = "empty"
    coding: str = "int8"
    is_cropped: bool = True

    def __str__(self) -> str:
        if self.quality is Quality.EXACT:
            return "full, decoded around the mask" if self.is_cropped else "full"
        return f"{self.quality}, {self.prime}, {self.coding}"


FULL = EditMethod(Quality.EXACT, is_cropped=False)  # the reference of all other methods


@dataclass(frozen=True, slots=True)
class EditVerdict:
    """One edit by one method: its image, whether it is right, and its SSIM and PSNR (dB) to the full computation."""

    method: EditMethod
    task: EditTask
    pixels: torch.Tensor
    is_right: bool
    ssim: float
    psnr: float
    is_equal_outside: bool


def judge_edits(path: str, side: int, count: int, methods: Sequence[EditMethod]) -> Iterator[EditVerdict]:
    """Yield every held-out edit in full and by every method."""
    families = {coding: _load_family(path, coding) for coding in {method.coding for method in (FULL, *methods)}}
    tasks = held_out_edits(count, side)
    for first in range(0, count, BATCH):
        batch = tasks[first : first + BATCH]
        results = {method: _compute(families[method.coding], batch, first, method) for method in (FULL, *methods)}
        for method, images in results.items():
            for task, pixels, reference in zip(batch, images, results[FULL], strict=True):
                yield _verdict(method, task, pixels, reference)


def edit_table(verdicts: Sequence[EditVerdict]) -> dict[str, dict[str, float]]:
    """Return by method how many are right, how alike they are in the mask, and how many are equal outside it."""
    rows: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(str(v.method) for v in verdicts):
        own = [v for v in verdicts if str(v.method) == name]
        finite = [min(v.psnr, 99.0) for v in own]
        rows[name] = {
            "right": sum(v.is_right for v in own),
            "of": len(own),
            "ssim_mean": sum(v.ssim for v in own) / len(own),
            "ssim_least": min(v.ssim for v in own),
            "alike": sum(v.ssim >= ALIKE for v in own),
            "psnr_mean": sum(finite) / len(finite),
            "equal_outside": sum(v.is_equal_outside for v in own),
        }
    return rows


def _verdict(method: EditMethod, task: EditTask, pixels: torch.Tensor, reference: torch.Tensor) -> EditVerdict:
    outside = ~task.mask
    image, full, mask = pixels.numpy(), reference.numpy(), task.mask.numpy()
    return EditVerdict(
        method=method,
        task=task,
        pixels=pixels,
        is_right=not faults(task.after, image),
        ssim=ssim(image, full, mask),
        psnr=psnr(image, full, mask),
        is_equal_outside=torch.equal(pixels[outside], task.template[outside]),
    )


def _load_family(path: str, coding: str) -> OfflinePipeline:
    spec = ModelSpec("judged", path, max_sequence_length=0)
    backbone, tables = load_backbone(spec)
    store = TemplateStore(STORE_BYTES, time.monotonic, coding)
    batcher = StepBatcher(fifo, StepLimits(max_rows=8192))
    engine = StepEngine(backbone, tables, batcher, time.monotonic, templates=store)
    family = OfflinePipeline.load(spec)
    return OfflinePipeline(family.text, engine, family.vae, backbone)


def _compute(family: OfflinePipeline, tasks: Sequence[EditTask], first: int, method: EditMethod) -> list[torch.Tensor]:
    """Return the images of edits, with the template's own pixels outside the masks."""
    side = tasks[0].template.shape[0]
    latents = [encoded.mean for encoded in family.vae.encode(torch.stack([task.template for task in tasks]))]
    scale = side // latents[0].shape[-1]
    [empty] = family.text.encode([""])
    for index, (task, mean) in enumerate(zip(tasks, latents, strict=True)):
        after, before, another = family.text.encode([task.after.text, task.before.text, task.another.text])
        primes: Mapping[str, Conditioning] = {"empty": empty, "another": another, "caption": before, "prompt": after}
        edit = Edit(
            Template.of(mean, TEMPLATE_SEED),
            latent_mask(task.mask, scale),
            method.quality,
            (primes[method.prime], empty),
            is_described=method.prime != "empty",
        )
        seed = first + index
        family.engine.add(LaneRequest(str(index), side, side, STEPS, GUIDANCE, seed, after, empty, edit=edit))
    results = _run_lanes(family.engine)
    images = []
    for index, (task, mean) in enumerate(zip(tasks, latents, strict=True)):
        pixels = _decode(family, method, results[str(index)], mean, latent_mask(task.mask, scale))
        images.append(torch.where(task.mask[..., None], pixels, task.template))
    return images


def _run_lanes(engine: StepEngine) -> dict[str, torch.Tensor]:
    """Run all lanes to their end and return their latents by key; raises the error of a lane that fails."""
    latents: dict[str, torch.Tensor] = {}
    while engine.lanes:
        for key, outcome in engine.step():
            if isinstance(outcome, LegoError):
                raise outcome
            assert isinstance(outcome, LaneResult)
            latents[key] = outcome.latents
    return latents


def _decode(
    family: OfflinePipeline, method: EditMethod, latents: torch.Tensor, template: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return one image, decoded whole or only around the mask."""
    if not method.is_cropped:
        return family.vae.decode(latents[None])[0]
    return family.vae.decode_within(latents[None], mask, lambda: family.vae.statistics(template))[0]
