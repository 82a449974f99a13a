"""Edits of templates: where a lane starts, which rows its steps compute, and what is read in place of the others.

Outside its mask a lane is the template, noised with the template's own noise, at every step: as in diffusers'
inpainting, each step's latents there are replaced.  So what a step reads of the template is the same for all its edits.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from lego_kernels import Blend
from lego_serve.core.costs import StepWork
from lego_serve.core.editing.reuse import REUSE_RULES, Quality, ReusePlan, ReuseStats, branch_work, plan_reuse
from lego_serve.engine.template_store import Template, TemplateStore
from lego_serve.errors import RequestError
from lego_serve.models.ragged.activations import entry_bytes
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.conditioning import Conditioning, LatentShape, PreparedPrompt
from lego_serve.models.sampling import Schedule, noise


@dataclass(frozen=True, slots=True)
class Edit:
    """What a lane changes of a template: latent pixels where ``mask`` (height, width) is true.

    ``priming_prompts`` are those under which the template's activations are computed, for the conditional and the
    unconditional branch; the more edits share them the fewer there are to compute.  Entries with a ``pin`` stay.
    ``is_described``: the first prompt says what the image shows, or the edit.
    """

    template: Template
    mask: torch.Tensor
    quality: Quality
    priming_prompts: tuple[Conditioning, Conditioning]
    pin: str = ""
    is_described: bool = True

    def to(self, device: torch.device) -> "Edit":
        """Return a copy whose template and mask, which steps use, lie on a device."""
        return replace(self, template=self.template.to(device), mask=self.mask.to(device))


@dataclass(frozen=True)
class PrimingPrompt:
    """A prompt under which a template is primed, made ready for the model; ``key`` names its content.

    ``keeps_text``: it is that of unconditional branches, which may read its text rows.
    """

    prepared: PreparedPrompt
    key: str
    keeps_text: bool

    @property
    def text_rows(self) -> int:
        """The number of its tokens."""
        return int(self.prepared.tokens.shape[0])

    def size_bytes(self, backbone: Backbone, store: TemplateStore, rows: int) -> int:
        """Return the bytes of an entry under this prompt, of a template of so many rows."""
        return entry_bytes(store.coding, backbone.attentions, rows, self.text_rows if self.keeps_text else 0)


@dataclass(frozen=True)
class LaneEdit:
    """An edit made ready for all steps of a lane.

    ``active``: the token rows, of ``rows`` in all, that a step computes where it reads the others, as ``plan`` says.
    ``reads_text``: the unconditional branch reads its text rows too.
    """

    edit: Edit
    active: torch.Tensor
    rows: int
    plan: ReusePlan
    priming_prompts: tuple[PrimingPrompt, PrimingPrompt]
    reads_text: bool = False

    @cached_property
    def blend(self) -> Blend:
        """What stands outside the mask: the template, noised to the step's sigma."""
        return Blend(self.edit.mask, self.edit.template.latents, self.edit.template.noise)

    def stats(self, masked_steps: int, primed_passes: int, evicted_entries: int) -> ReuseStats:
        """Return what it read of its template in so many steps, after so many passes over it that ran for it."""
        return ReuseStats(
            quality=self.edit.quality,
            masked_steps=masked_steps,
            steps=len(self.plan.entries),
            active_rows=len(self.active),
            rows=self.rows,
            primed=primed_passes,
            evicted=evicted_entries,
        )

    def work(self, step: int, tokens: int, text_rows: Sequence[int], reference_rows: int = 0) -> StepWork:
        """Return the rows and pairs of its branches in a step; ``text_rows`` by branch, the unconditional one last."""
        is_masked = self.plan.entries[step] is not None
        active_rows = len(self.active) if is_masked else tokens
        reads_text = (False, is_masked and self.reads_text)
        branches = zip(text_rows, reads_text, strict=False)
        work = sum(
            (branch_work(tokens, active_rows, rows, reads_text=reads) for rows, reads in branches), StepWork(0, 0)
        )
        return StepWork(work.rows, work.pairs + work.rows * reference_rows)


def prepare_edit(
    edit: Edit,
    backbone: Backbone,
    store: TemplateStore,
    size: tuple[int, int],
    schedule: Schedule,
    negative: Conditioning | None = None,
) -> LaneEdit:
    """Make an edit of an image of so many pixels (width, height) ready; ``negative`` is given to guided lanes.

    The mask is looked at here, on the CPU; what steps use goes to the model's device for good.
    Raises RequestError where sizes differ or the mask is empty.
    """
    shape = backbone.shape
    _check_sizes(edit, shape, size)
    active = active_tokens(edit.mask, shape)
    if not len(active):
        raise RequestError("The mask leaves nothing to edit.", param="mask")
    rows = shape.tokens(*size)
    keys = [_content_key(cond) for cond in edit.priming_prompts]
    keeps_text = negative is not None and backbone.text_rows > 0 and _content_key(negative) == keys[1]
    first, second = (
        PrimingPrompt(backbone.prepare(cond), key, keeps_text and key == keys[1])
        for cond, key in zip(edit.priming_prompts, keys, strict=True)
    )
    branches = [first] if negative is None else [first, second]
    entries = {prompt.key: prompt.size_bytes(backbone, store, rows) for prompt in branches}
    # Two branches that share an entry save rows even where it is computed for every step anew.
    room = None if len(entries) < len(branches) else store.budget_bytes // sum(entries.values())
    plan = plan_reuse(
        REUSE_RULES[edit.quality],
        schedule.asked,
        len(active),
        rows,
        room,
        is_uncaptioned=not edit.is_described,
        begins=schedule.begins,
    )
    return LaneEdit(
        edit=edit.to(backbone.device),
        active=active.to(backbone.device),
        rows=rows,
        plan=plan,
        priming_prompts=(first, second),
        reads_text=plan.reads_text and keeps_text,
    )


def _check_sizes(edit: Edit, shape: LatentShape, size: tuple[int, int]) -> None:
    width, height = size
    latent_shape = shape.of(width, height)
    if tuple(edit.template.latents.shape) != latent_shape or tuple(edit.mask.shape) != latent_shape[1:]:
        message = f"The edit's template or mask does not have the image's size, {width}x{height}."
        raise RequestError(message, param="mask")


def start_edit(edit: Edit, seed: int, schedule: Schedule) -> torch.Tensor:
    """Return latents at a schedule's first sigma: the template, with the request's own noise inside the mask."""
    channels, height, width = edit.template.latents.shape
    own_noise = noise((channels, height, width), torch.Generator().manual_seed(seed))
    composed = torch.where(edit.mask[None], own_noise, edit.template.noise)
    sigma = schedule.sigmas[0]
    return sigma * composed + (1.0 - sigma) * edit.template.latents


def active_tokens(mask: torch.Tensor, shape: LatentShape) -> torch.Tensor:
    """Return the token rows, ascending, that a mask over latent pixels (height, width) touches."""
    patch = shape.pixels_per_token // shape.pixels_per_latent
    height, width = mask.shape
    touched = mask.view(height // patch, patch, width // patch, patch).any(dim=3).any(dim=1)
    return torch.nonzero(touched.flatten()).flatten()


def _content_key(cond: Conditioning) -> str:
    digest = hashlib.sha256()
    for part in (cond.tokens, cond.pooled):
        digest.update(f"{tuple(part.shape)}".encode())
        digest.update(part.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
