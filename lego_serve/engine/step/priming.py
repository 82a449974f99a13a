"""Priming passes: the passes over templates and references that fill the entries which a step's lanes read.

An edit reads the template's activations at the sigma of its step, or of one before; a lane with a reference reads that
reference's in every step.  Entries that are not kept from before are filled in the same forward pass, each once,
whatever the number of lanes that read it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from lego_serve.core.costs import Rates, StepWork
from lego_serve.core.editing.reuse import branch_work
from lego_serve.core.editing.templates import entries_label
from lego_serve.engine.edits import LaneEdit, PrimingPrompt
from lego_serve.engine.rows.references import LaneReference
from lego_serve.engine.template_store import Template, TemplateStore
from lego_serve.models.lora.adapter import Uses, key_of
from lego_serve.models.ragged.activations import Activations, Reuse, entry_bytes
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.sampling import Schedule


@dataclass(frozen=True, slots=True)
class EditStep:
    """One step of a lane's edit: its place in the schedule, its adapters, and the lane's guidance."""

    edit: LaneEdit
    schedule: Schedule
    step: int
    adapters: Uses
    guidance: float

    @property
    def template(self) -> Template:
        """The template that is edited."""
        return self.edit.edit.template

    @property
    def source(self) -> int | None:
        """The step whose entries it reads; None where it computes all rows."""
        return self.edit.plan.entries[self.step]


@dataclass(frozen=True, slots=True)
class ReferenceStep:
    """One step of a lane as its references see it: they are computed under its adapters and its guidance."""

    references: tuple[LaneReference, ...]
    adapters: Uses
    guidance: float


@dataclass(slots=True)
class PrimingBatch:
    """The priming passes that a step's lanes need, each once; they run in the same forward pass.

    ``entries``: all that the lanes read.  ``filling``: the keys of those that ``inputs`` fill.  ``pins`` by entry.
    """

    backbone: Backbone
    store: TemplateStore
    rates: Rates
    entries: dict[str, Activations] = field(default_factory=dict)
    inputs: list[LaneInput] = field(default_factory=list)
    filling: list[str] = field(default_factory=list)
    pins: dict[str, str] = field(default_factory=dict)

    def reuse(self, step: EditStep, *, guided: bool) -> Reuse | None:
        """Return what is read in place of the rows that a step does not compute; None where it computes all."""
        if step.source is None:
            return None
        first, second = step.edit.priming_prompts
        cond = self._entry(step, step.source, first)
        negative = self._entry(step, step.source, second) if guided else None
        return Reuse(step.edit.active, cond, negative, reads_text=step.edit.reads_text)

    def references(self, step: ReferenceStep) -> tuple[Activations, ...]:
        """Return the rows of a lane's references, which it attends to beside its own."""
        return tuple(self._reference_entry(step, each) for each in step.references)

    def commit(self) -> None:
        """Keep and pin the entries: the step has run and filled them."""
        for key in self.filling:
            self.store.commit(key, self.entries[key])
        for key, pin in self.pins.items():
            self.store.pin(key, pin)

    def abort(self) -> None:
        """Give up the entries that were to be filled: the step has failed."""
        for key in self.filling:
            self.store.abort(key)

    def _entry(self, step: EditStep, source: int, prompt: PrimingPrompt) -> Activations:
        key = _entry_key(step, source, prompt, self.backbone, self.store)
        if step.edit.edit.pin:
            self.pins[key] = step.edit.edit.pin
        rows = _token_rows(step.template, self.backbone)
        size = EntryNeed(
            prompt.size_bytes(self.backbone, self.store, rows),
            self._priming_s(rows, prompt.text_rows),
            keeps_text=prompt.keeps_text,
        )
        return self._acquire(key, size, lambda entry: self._priming_input(step, source, prompt, entry))

    def _reference_entry(self, step: ReferenceStep, reference: LaneReference) -> Activations:
        size = EntryNeed(reference.size_bytes(self.backbone, self.store), self._priming_s(reference.rows, 0))
        key = _reference_key(step, reference, self.backbone, self.store)
        return self._acquire(key, size, lambda entry: self._reference_input(step, reference, entry))

    def _acquire(self, key: str, need: "EntryNeed", fill: Callable[[Activations], LaneInput]) -> Activations:
        if key in self.entries:
            return self.entries[key]
        entry, is_new = self.store.acquire(key, need.size_bytes, need.load_s, keeps_text=need.keeps_text)
        if is_new:
            self.inputs.append(fill(entry))
            self.filling.append(key)
        self.entries[key] = entry
        return entry

    def _reference_input(self, step: ReferenceStep, reference: LaneReference, entry: Activations) -> LaneInput:
        return LaneInput(
            latents=reference.latents,
            time=0.0,
            guidance=1.0 if self.backbone.uses_cfg else step.guidance,
            cond=reference.prompt,
            negative=None,
            adapters=step.adapters,
            capture=entry,
            frame=reference.frame,
        )

    def _priming_input(self, step: EditStep, source: int, prompt: PrimingPrompt, entry: Activations) -> LaneInput:
        return LaneInput(
            latents=step.template.noised(step.schedule.sigmas[source]),
            time=step.schedule.times[source],
            guidance=1.0 if self.backbone.uses_cfg else step.guidance,
            cond=prompt.prepared,
            negative=None,
            adapters=step.adapters,
            capture=entry,
        )

    def _priming_s(self, rows: int, text_rows: int) -> float:
        work = branch_work(rows, rows, text_rows)
        return work.rows * self.rates.row_s + work.pairs * self.rates.pair_s


@dataclass(frozen=True, slots=True)
class EntryNeed:
    """What an entry takes: its bytes, the seconds of the pass that fills it, and whether text rows are kept too."""

    size_bytes: int
    load_s: float
    keeps_text: bool = False


def reference_work(step: ReferenceStep, backbone: Backbone, store: TemplateStore) -> dict[str, StepWork]:
    """Return, by the entry of each of a lane's references, the rows and pairs of the pass that fills it."""
    return {
        _reference_key(step, each, backbone, store): branch_work(each.rows, each.rows, 0) for each in step.references
    }


def priming_work(step: EditStep, backbone: Backbone, store: TemplateStore, *, guided: bool) -> dict[str, StepWork]:
    """Return, by entry that a step reads, the rows and pairs of the pass that fills it."""
    if step.source is None:
        return {}
    first, second = step.edit.priming_prompts
    rows = _token_rows(step.template, backbone)
    return {
        _entry_key(step, step.source, prompt, backbone, store): branch_work(rows, rows, prompt.text_rows)
        for prompt in ((first, second) if guided else (first,))
    }


def _entry_key(step: EditStep, source: int, prompt: PrimingPrompt, backbone: Backbone, store: TemplateStore) -> str:
    """Return an entry's name: all that its values depend on, but for the model, of which a replica has one.

    It begins with the label by which replicas report their entries.
    """
    guidance = step.guidance if backbone.guidance_embeds else None
    sigma, time = step.schedule.sigmas[source], step.schedule.times[source]
    content = (sigma, time, prompt.key, prompt.keeps_text, guidance, store.coding.name)
    label = entries_label(step.template.key, key_of(step.adapters))
    return f"{label}/{hashlib.sha256(repr(content).encode()).hexdigest()[:32]}"


def _reference_key(step: ReferenceStep, reference: LaneReference, backbone: Backbone, store: TemplateStore) -> str:
    guidance = step.guidance if backbone.guidance_embeds else None
    return f"{entries_label(reference.key, key_of(step.adapters))}/{guidance}.{store.coding.name}"


def _token_rows(template: Template, backbone: Backbone) -> int:
    _, height, width = template.latents.shape
    scale = backbone.shape.pixels_per_latent
    return backbone.shape.tokens(width * scale, height * scale)


@dataclass(frozen=True, slots=True)
class EntrySize:
    """The token rows of an image, the bytes of an entry of them, and the bytes that a prompt's rows add."""

    rows: int
    plain_bytes: int
    text_bytes: int


def entry_size(backbone: Backbone, store: TemplateStore, width: int, height: int) -> EntrySize:
    """Return the size of an entry of a template of so many pixels."""
    rows = backbone.shape.tokens(width, height)
    plain_bytes = entry_bytes(store.coding, backbone.attentions, rows, 0)
    whole_bytes = entry_bytes(store.coding, backbone.attentions, rows, backbone.text_rows)
    return EntrySize(rows, plain_bytes, whole_bytes - plain_bytes)
