"""Edits of templates: where a lane starts, which rows its steps compute, and what stands for the others.

Outside its mask a lane is the template, noised with the template's own noise, at every step: as in diffusers'
inpainting, each step's latents there are replaced.  So what a step reads of the template is the same for all its edits.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from lego_serve.core.costs import Rates, StepWork
from lego_serve.core.editing.reuse import REUSE_RULES, Quality, ReusePlan, ReuseStats, branch_work, plan_reuse
from lego_serve.core.editing.templates import entries_label
from lego_serve.engine.template_store import Template, TemplateStore
from lego_serve.errors import RequestError
from lego_serve.models.lora.adapter import Uses, key_of
from lego_serve.models.ragged.activations import Activations, Reuse, entry_bytes
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.conditioning import Conditioning, LatentShape, PreparedPrompt
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.sampling import Schedule, noise


@dataclass(frozen=True, slots=True)
class Edit:
    """What a lane changes of a template: latent pixels where ``mask`` (height, width) is true.

    ``primes`` are the prompts under which the template's activations are computed, for the conditional branch
    and for the other; the more edits share them the fewer there are to compute.  With a ``pin`` they stay.
    ``is_described``: the first prompt says what the image shows, or the edit.
    """

    template: Template
    mask: torch.Tensor
    quality: Quality
    primes: tuple[Conditioning, Conditioning]
    pin: str = ""
    is_described: bool = True

    def to(self, device: torch.device) -> "Edit":
        """The same with what its steps use kept on a device."""
        return replace(self, template=self.template.to(device), mask=self.mask.to(device))


@dataclass(frozen=True)
class PrimingPrompt:
    """A conditioning that primes, made ready for the model, and a name for its content.

    ``keeps_text``: it is that of unconditional branches, which may read its text rows.
    """

    prepared: PreparedPrompt
    key: str
    keeps_text: bool

    @property
    def text_rows(self) -> int:
        """Its tokens."""
        return int(self.prepared.tokens.shape[0])

    def size_bytes(self, backbone: Backbone, store: TemplateStore, rows: int) -> int:
        """What an entry of it takes, of a template of so many rows."""
        return entry_bytes(store.coding, backbone.attentions, rows, self.text_rows if self.keeps_text else 0)


@dataclass(frozen=True)
class LaneEdit:
    """An edit made ready for all steps: the token rows it computes where a step reads the others, and which do."""

    edit: Edit
    active: torch.Tensor
    rows: int
    plan: ReusePlan
    primes: tuple[PrimingPrompt, PrimingPrompt]
    reads_text: bool = False  # of its unconditional branch

    @cached_property
    def inside(self) -> torch.Tensor:
        """The mask as (1, height, width)."""
        return self.edit.mask[None]

    def kept(self, latents: torch.Tensor, sigma: float) -> torch.Tensor:
        """Latents with the template, noised to a sigma, outside the mask."""
        return torch.where(self.inside, latents, self.edit.template.noised(sigma))

    def stats(self, masked_steps: int, primed: int, evicted: int) -> ReuseStats:
        """What it read of its template in so many steps, after so many passes over it that ran for it."""
        steps = masked_steps, len(self.plan.entries)
        return ReuseStats(self.edit.quality, *steps, len(self.active), self.rows, primed, evicted)

    def work(self, step: int, tokens: int, text_rows: Sequence[int]) -> StepWork:
        """Rows and pairs of its branches at a step, the unconditional one last."""
        is_masked = self.plan.entries[step] is not None
        active = len(self.active) if is_masked else tokens
        reads = (False, is_masked and self.reads_text)
        each = (branch_work(tokens, active, rows, reads_text=r) for rows, r in zip(text_rows, reads, strict=False))
        return sum(each, StepWork(0, 0))


def prepare_edit(
    edit: Edit,
    backbone: Backbone,
    store: TemplateStore,
    size: tuple[int, int],
    steps: int,
    negative: Conditioning | None = None,
) -> LaneEdit:
    """Make an edit of an image of so many pixels (width, height) ready; ``negative`` where it is guided by one.

    What is asked of the mask is asked here, on the CPU; what steps use goes to the model's device for good.
    Raises RequestError where sizes differ.
    """
    shape = backbone.shape
    latent_shape = shape.of(*size)
    if tuple(edit.template.latents.shape) != latent_shape or tuple(edit.mask.shape) != latent_shape[1:]:
        raise RequestError(
            f"The edit's template or mask does not have the image's size, {size[0]}x{size[1]}.", param="mask"
        )
    active = active_tokens(edit.mask, shape)
    if not len(active):
        raise RequestError("The mask leaves nothing to edit.", param="mask")
    rows = shape.tokens(*size)
    keys = [_content(cond) for cond in edit.primes]
    keeps_text = negative is not None and backbone.text_rows > 0 and _content(negative) == keys[1]
    named = zip(edit.primes, keys, strict=True)
    primes = [PrimingPrompt(backbone.prepare(cond), key, keeps_text and key == keys[1]) for cond, key in named]
    branches = 1 if negative is None else 2
    entries = {prime.key: prime.size_bytes(backbone, store, rows) for prime in primes[:branches]}
    # Two branches that share an entry save rows even where it is computed for every step anew.
    room = None if len(entries) < branches else store.budget_bytes // sum(entries.values())
    plan = plan_reuse(REUSE_RULES[edit.quality], steps, len(active), rows, room, is_uncaptioned=not edit.is_described)
    device, reads_text = backbone.device, plan.reads_text and keeps_text
    return LaneEdit(edit.to(device), active.to(device), rows, plan, (primes[0], primes[1]), reads_text)


def start_edit(edit: Edit, seed: int, schedule: Schedule) -> torch.Tensor:
    """Latents at a schedule's first sigma: the template with the request's own noise inside the mask."""
    channels, height, width = edit.template.latents.shape
    inside = noise((channels, height, width), torch.Generator().manual_seed(seed))
    composed = torch.where(edit.mask[None], inside, edit.template.noise)
    sigma = schedule.sigmas[0]
    return sigma * composed + (1.0 - sigma) * edit.template.latents


def active_tokens(mask: torch.Tensor, shape: LatentShape) -> torch.Tensor:
    """The token rows, ascending, that a mask over latent pixels (height, width) touches."""
    patch = shape.pixels_per_token // shape.pixels_per_latent
    height, width = mask.shape
    touched = mask.view(height // patch, patch, width // patch, patch).any(dim=3).any(dim=1)
    return torch.nonzero(touched.flatten()).flatten()


@dataclass(frozen=True, slots=True)
class EditStep:
    """Where a lane's edit stands: its schedule's step, its adapters there, and the guidance it is told."""

    lane: LaneEdit
    schedule: Schedule
    step: int
    adapters: Uses
    guidance: float


@dataclass(slots=True)
class PrimingBatch:
    """The priming passes that a step's edits need, each once; they run in the same forward pass."""

    backbone: Backbone
    store: TemplateStore
    rates: Rates
    entries: dict[str, Activations] = field(default_factory=dict)
    inputs: list[LaneInput] = field(default_factory=list)
    filling: list[str] = field(default_factory=list)
    pins: dict[str, str] = field(default_factory=dict)

    def reuse(self, at: EditStep, *, guided: bool) -> Reuse | None:
        """What stands for the rows this step does not compute; None where it computes all of them."""
        source = at.lane.plan.entries[at.step]
        if source is None:
            return None
        cond = self._entry(at, source, at.lane.primes[0])
        negative = self._entry(at, source, at.lane.primes[1]) if guided else None
        return Reuse(at.lane.active, cond, negative, reads_text=at.lane.reads_text)

    def commit(self) -> None:
        """The step has run."""
        for key in self.filling:
            self.store.commit(key, self.entries[key])
        for key, pin in self.pins.items():
            self.store.pin(key, pin)

    def abort(self) -> None:
        """It has not."""
        for key in self.filling:
            self.store.abort(key)

    def _entry(self, at: EditStep, source: int, prime: PrimingPrompt) -> Activations:
        key = _key(at, source, prime, self.backbone, self.store)
        if at.lane.edit.pin:
            self.pins[key] = at.lane.edit.pin
        if key in self.entries:
            return self.entries[key]
        template = at.lane.edit.template
        sigma, time = at.schedule.sigmas[source], at.schedule.times[source]
        guidance = 1.0 if self.backbone.uses_cfg else at.guidance
        lane = LaneInput(template.noised(sigma), time, guidance, prime.prepared, None, adapters=at.adapters)
        rows = _tokens(template, self.backbone)
        size_bytes, seconds = prime.size_bytes(self.backbone, self.store, rows), self._seconds(rows, prime.text_rows)
        entry, is_new = self.store.acquire(key, size_bytes, seconds, keeps_text=prime.keeps_text)
        if is_new:
            self.inputs.append(replace(lane, capture=entry))
            self.filling.append(key)
        self.entries[key] = entry
        return entry

    def _seconds(self, rows: int, text_rows: int) -> float:
        work = branch_work(rows, rows, text_rows)
        return work.rows * self.rates.row_s + work.pairs * self.rates.pair_s


def priming_work(at: EditStep, backbone: Backbone, store: TemplateStore, *, guided: bool) -> dict[str, StepWork]:
    """By entry that a step reads, the rows and pairs of the pass that fills it."""
    source = at.lane.plan.entries[at.step]
    if source is None:
        return {}
    rows = _tokens(at.lane.edit.template, backbone)
    return {
        _key(at, source, prime, backbone, store): branch_work(rows, rows, prime.text_rows)
        for prime in at.lane.primes[: 1 + guided]
    }


def _key(at: EditStep, source: int, prime: PrimingPrompt, backbone: Backbone, store: TemplateStore) -> str:
    """An entry's name: whatever its values depend on, but for the model, of which a replica has one.

    What it begins with is what replicas report of themselves.
    """
    template = at.lane.edit.template
    told = at.guidance if backbone.guidance_embeds else None
    sigma, time = at.schedule.sigmas[source], at.schedule.times[source]
    name = (sigma, time, prime.key, prime.keeps_text, told, store.coding.name)
    label = entries_label(template.key, key_of(at.adapters))
    return f"{label}/{hashlib.sha256(repr(name).encode()).hexdigest()[:32]}"


def _tokens(template: Template, backbone: Backbone) -> int:
    _, height, width = template.latents.shape
    scale = backbone.shape.pixels_per_latent
    return backbone.shape.tokens(width * scale, height * scale)


@dataclass(frozen=True, slots=True)
class EntrySize:
    """The token rows of an image, the bytes of an entry of them, and those that a prompt's rows add."""

    rows: int
    plain_bytes: int
    text_bytes: int


def entry_size(backbone: Backbone, store: TemplateStore, width: int, height: int) -> EntrySize:
    """That of a template of so many pixels."""
    rows = backbone.shape.tokens(width, height)
    plain, whole = (entry_bytes(store.coding, backbone.attentions, rows, n) for n in (0, backbone.text_rows))
    return EntrySize(rows, plain, whole - plain)


def _content(cond: Conditioning) -> str:
    digest = hashlib.sha256()
    for part in (cond.tokens, cond.pooled):
        digest.update(f"{tuple(part.shape)}".encode())
        digest.update(part.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
