"""Priming passes: the passes over a template that fill the entries which a step's edits read.

An edit reads the template's activations at the sigma of its step, or of one before.  Entries that are not kept from
before are filled in the same forward pass, each once, whatever the number of lanes that read it.
"""

import hashlib
from dataclasses import dataclass, field

from lego_serve.core.costs import Rates, StepWork
from lego_serve.core.editing.reuse import branch_work
from lego_serve.core.editing.templates import entries_label
from lego_serve.engine.edits import LaneEdit, PrimingPrompt
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


@dataclass(slots=True)
class PrimingBatch:
    """The priming passes that a step's edits need, each once; they run in the same forward pass.

    ``entries``: all that the edits read.  ``filling``: the keys of those that ``inputs`` fill.  ``pins`` by entry.
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
        if key in self.entries:
            return self.entries[key]
        rows = _token_rows(step.template, self.backbone)
        size_bytes = prompt.size_bytes(self.backbone, self.store, rows)
        load_s = self._priming_s(rows, prompt.text_rows)
        entry, is_new = self.store.acquire(key, size_bytes, load_s, keeps_text=prompt.keeps_text)
        if is_new:
            self.inputs.append(self._priming_input(step, source, prompt, entry))
            self.filling.append(key)
        self.entries[key] = entry
        return entry

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
