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
from lego_serve.core.reuse import RULES, Quality, ReusePlan, ReuseStats, branch_work, plan_reuse
from lego_serve.core.templates import entries_label
from lego_serve.engine.templates import Template, TemplateStore
from lego_serve.errors import RequestError
from lego_serve.models.activations import Activations, Reuse
from lego_serve.models.base import Backbone, Conditioning, LaneInput, LatentShape, Prepared
from lego_serve.models.lora import Uses, key_of
from lego_serve.models.sampling import Schedule, noise


@dataclass(frozen=True, slots=True)
class Edit:
    """What a lane changes of a template: latent pixels where ``mask`` (height, width) is true.

    ``primes`` are the prompts under which the template's activations are computed, for the conditional branch
    and for the other; the more edits share them the fewer there are to compute.  With a ``pin`` they stay.
    """

    template: Template
    mask: torch.Tensor
    quality: Quality
    primes: tuple[Conditioning, Conditioning]
    pin: str = ""

    def to(self, device: torch.device) -> "Edit":
        """The same with what its steps use kept on a device."""
        return replace(self, template=self.template.to(device), mask=self.mask.to(device))


@dataclass(frozen=True)
class Prime:
    """A conditioning that primes, made ready for the model, and a name for its content."""

    prepared: Prepared
    key: str


@dataclass(frozen=True)
class LaneEdit:
    """An edit made ready for all steps: the token rows it computes where a step reads the others, and which do."""

    edit: Edit
    active: torch.Tensor
    rows: int
    plan: ReusePlan
    primes: tuple[Prime, Prime]

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

    def work(self, step: int, tokens: int, text_rows: Sequence[int], *, computes_all: bool = False) -> StepWork:
        """Rows and pairs of its branches at a step."""
        is_full = computes_all or self.plan.entries[step] is None
        active = tokens if is_full else len(self.active)
        return sum((branch_work(tokens, active, rows) for rows in text_rows), StepWork(0, 0))


def prepare_edit(
    edit: Edit, backbone: Backbone, store: TemplateStore, size: tuple[int, int], steps: int, branches: int
) -> LaneEdit:
    """Make an edit of a picture of so many pixels (width, height) ready, with so many branches where it is guided.

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
    primes = tuple(Prime(backbone.prepare(cond), _content(cond)) for cond in edit.primes)
    entries = len({prime.key for prime in primes[:branches]})
    # Two branches that share an entry save rows even where it is computed for every step anew.
    room = None if entries < branches else store.budget_bytes // (entries * entry_bytes(backbone, store, rows))
    plan = plan_reuse(RULES[edit.quality], steps, len(active), rows, room)
    device = backbone.device
    return LaneEdit(edit.to(device), active.to(device), rows, plan, (primes[0], primes[1]))


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
        return Reuse(at.lane.active, cond, self._entry(at, source, at.lane.primes[1]) if guided else None)

    def done(self) -> None:
        """The step has run."""
        for key in self.filling:
            self.store.done(key, self.entries[key])
        for key, pin in self.pins.items():
            self.store.pin(key, pin)

    def failed(self) -> None:
        """It has not."""
        for key in self.filling:
            self.store.failed(key)

    def _entry(self, at: EditStep, source: int, prime: Prime) -> Activations:
        key = _key(at, source, prime, self.backbone, self.store)
        if at.lane.edit.pin:
            self.pins[key] = at.lane.edit.pin
        if key in self.entries:
            return self.entries[key]
        template, prepared = at.lane.edit.template, prime.prepared
        sigma, time = at.schedule.sigmas[source], at.schedule.times[source]
        guidance = 1.0 if self.backbone.classifier_free else at.guidance
        lane = LaneInput(template.noised(sigma), time, guidance, prepared, None, adapters=at.adapters)
        rows = _tokens(template, self.backbone)
        entry, is_new = self.store.wanted(
            key, entry_bytes(self.backbone, self.store, rows), self._seconds(rows, prepared)
        )
        if is_new:
            self.inputs.append(replace(lane, capture=entry))
            self.filling.append(key)
        self.entries[key] = entry
        return entry

    def _seconds(self, rows: int, prepared: Prepared) -> float:
        work = branch_work(rows, rows, int(prepared.tokens.shape[0]))
        return work.rows * self.rates.row_s + work.pairs * self.rates.pair_s


def priming_work(at: EditStep, backbone: Backbone, store: TemplateStore, *, guided: bool) -> dict[str, StepWork]:
    """By entry that a step reads, the rows and pairs of the pass that fills it."""
    source = at.lane.plan.entries[at.step]
    if source is None:
        return {}
    rows = _tokens(at.lane.edit.template, backbone)
    return {
        _key(at, source, prime, backbone, store): branch_work(rows, rows, int(prime.prepared.tokens.shape[0]))
        for prime in at.lane.primes[: 1 + guided]
    }


def _key(at: EditStep, source: int, prime: Prime, backbone: Backbone, store: TemplateStore) -> str:
    """An entry's name: whatever its values depend on, but for the model, of which a replica has one.

    What it begins with is what replicas report of themselves.
    """
    template = at.lane.edit.template
    told = at.guidance if backbone.is_told_guidance else None
    sigma, time = at.schedule.sigmas[source], at.schedule.times[source]
    name = (sigma, time, prime.key, told, store.coding.name)
    label = entries_label(template.key, key_of(at.adapters))
    return f"{label}/{hashlib.sha256(repr(name).encode()).hexdigest()[:32]}"


def _tokens(template: Template, backbone: Backbone) -> int:
    _, height, width = template.latents.shape
    scale = backbone.shape.pixels_per_latent
    return backbone.shape.tokens(width * scale, height * scale)


def entry_bytes(backbone: Backbone, store: TemplateStore, rows: int) -> int:
    """What the entry of a template of so many token rows takes, for one sigma and one conditioning."""
    return sum(store.coding.size_bytes(rows, heads, width) for heads, width in backbone.attentions)


def _content(cond: Conditioning) -> str:
    digest = hashlib.sha256()
    for part in (cond.tokens, cond.pooled):
        digest.update(f"{tuple(part.shape)}".encode())
        digest.update(part.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
