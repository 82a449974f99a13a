"""What reading a template's activations costs in quality: edits computed in full and with them, from the same noise."""

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
ALIKE = 0.95  # the SSIM from which an image is as good as the one computed in full
TEMPLATE_SEED = 2**31
STORE_BYTES = 2**30
PRIMES = ("empty", "another", "caption", "prompt")  # words that prime: none, of another edit, a caption, the edit's own


@dataclass(frozen=True, slots=True)
class Way:
    """One way to compute edits: how much is read, under which prompt templates are primed, how rows are kept, and
    whether less than the whole image may be decoded.
    """

    quality: Quality
    prime: str = "empty"
    coding: str = "int8"
    is_cropped: bool = True

    def __str__(self) -> str:
        if self.quality is Quality.EXACT:
            return "full, decoded around the mask" if self.is_cropped else "full"
        return f"{self.quality}, {self.prime}, {self.coding}"


FULL = Way(Quality.EXACT, is_cropped=False)  # what all others are compared with


@dataclass(frozen=True, slots=True)
class EditVerdict:
    """One edit, one way: its image, whether it is what was asked for, and how like the full computation's it is."""

    way: Way
    task: EditTask
    pixels: torch.Tensor
    is_right: bool
    ssim: float
    psnr: float
    is_equal_outside: bool


def judge_edits(path: str, side: int, count: int, ways: Sequence[Way]) -> Iterator[EditVerdict]:
    """Every held-out edit in full and in every way."""
    families = {coding: _family(path, coding) for coding in {way.coding for way in (FULL, *ways)}}
    tasks = held_out_edits(count, side)
    for at in range(0, count, BATCH):
        some = tasks[at : at + BATCH]
        made = {way: _edited(families[way.coding], some, at, way) for way in (FULL, *ways)}
        for way, images in made.items():
            for task, pixels, reference in zip(some, images, made[FULL], strict=True):
                yield _verdict(way, task, pixels, reference)


def edit_table(verdicts: Sequence[EditVerdict]) -> dict[str, dict[str, float]]:
    """By way: how many are right and how like the full computation in the mask, and whether all else is equal."""
    rows: dict[str, dict[str, float]] = {}
    for way in dict.fromkeys(str(v.way) for v in verdicts):
        own = [v for v in verdicts if str(v.way) == way]
        finite = [min(v.psnr, 99.0) for v in own]
        rows[way] = {
            "right": sum(v.is_right for v in own),
            "of": len(own),
            "ssim_mean": sum(v.ssim for v in own) / len(own),
            "ssim_least": min(v.ssim for v in own),
            "alike": sum(v.ssim >= ALIKE for v in own),
            "psnr_mean": sum(finite) / len(finite),
            "equal_outside": sum(v.is_equal_outside for v in own),
        }
    return rows


def _verdict(way: Way, task: EditTask, pixels: torch.Tensor, reference: torch.Tensor) -> EditVerdict:
    outside = ~task.mask
    made, wanted, mask = pixels.numpy(), reference.numpy(), task.mask.numpy()
    is_equal_outside = torch.equal(pixels[outside], task.template[outside])
    alike = ssim(made, wanted, mask), psnr(made, wanted, mask)
    return EditVerdict(way, task, pixels, not faults(task.after, made), *alike, is_equal_outside)


def _family(path: str, coding: str) -> OfflinePipeline:
    spec = ModelSpec("judged", path, max_sequence_length=0)
    backbone, tables = load_backbone(spec)
    store = TemplateStore(STORE_BYTES, time.monotonic, coding)
    batcher = StepBatcher(fifo, StepLimits(max_rows=8192))
    family = OfflinePipeline.load(spec)
    return OfflinePipeline(
        family.text, StepEngine(backbone, tables, batcher, time.monotonic, templates=store), family.vae
    )


def _edited(family: OfflinePipeline, tasks: Sequence[EditTask], first: int, way: Way) -> list[torch.Tensor]:
    """Images of edits, the template's own pixels outside the masks."""
    side = tasks[0].template.shape[0]
    latents = [encoded.mean for encoded in family.vae.encode(torch.stack([task.template for task in tasks]))]
    scale = side // latents[0].shape[-1]
    [empty] = family.text.encode([""])
    for index, (task, z) in enumerate(zip(tasks, latents, strict=True)):
        after, before, another = family.text.encode([each.text for each in (task.after, task.before, task.another)])
        primes: Mapping[str, Conditioning] = {"empty": empty, "another": another, "caption": before, "prompt": after}
        template = Template.of(z, TEMPLATE_SEED)
        words, is_described = (primes[way.prime], empty), way.prime != "empty"
        edit = Edit(template, latent_mask(task.mask, scale), way.quality, words, is_described=is_described)
        seed = first + index
        family.engine.add(LaneRequest(str(index), side, side, STEPS, GUIDANCE, seed, after, empty, edit=edit))
    found: dict[str, torch.Tensor] = {}
    while family.engine.lanes:
        for key, outcome in family.engine.step():
            if isinstance(outcome, LegoError):
                raise outcome
            assert isinstance(outcome, LaneResult)
            found[key] = outcome.latents
    decoded = [
        _decoded(family, way, found[str(i)], z, latent_mask(tasks[i].mask, scale)) for i, z in enumerate(latents)
    ]
    return [torch.where(task.mask[..., None], p, task.template) for task, p in zip(tasks, decoded, strict=True)]


def _decoded(
    family: OfflinePipeline, way: Way, latents: torch.Tensor, template: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """One image: all of it decoded, or what the mask touches."""
    if not way.is_cropped:
        return family.vae.decode(latents[None])[0]
    return family.vae.decode_within(latents[None], mask, lambda: family.vae.statistics(template))[0]
