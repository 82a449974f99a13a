"""Two forms in which a template's activations could be kept: keys and values, or the inputs of blocks.

Keys and values after norm and rotation (KV) take twice the bytes of the blocks' inputs (Y, as in InstGenIE), from which
every step computes them again by a norm, a modulation and a product over all rows that are read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.engine.masked import SHARES, masked_lane
from benchmarks.engine.models import Subject
from benchmarks.engine.report import Report
from benchmarks.engine.timing import Patience, Quartiles, ratios, take_turns
from lego_serve.models.families.sd3 import Sd3Backbone, run_block
from lego_serve.models.ragged.activations import ACTIVATION_CODECS, ActivationCodec, Parts
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.ragged.layers import Projection, adaln_modulate
from lego_serve.models.ragged.packing import pack

CODINGS = ("bfloat16", "int8")
COLUMNS = ("model", "image", "lanes", "computed", "form", "coding", "MB an entry", "ms a step", "over KV")


@dataclass(frozen=True, slots=True)
class FormRow:
    """One form and coding at one share of one image; ``over_kv``: over keys and values in the same coding."""

    model: str
    pixels: int
    lanes: int
    share: float
    form: str
    coding: str
    entry_bytes: int
    step_s: Quartiles
    over_kv: Quartiles

    def cells(self) -> list[str]:
        """Return the row of the table, in the order of COLUMNS."""
        return [
            self.model,
            f"{self.pixels} x {self.pixels}",
            str(self.lanes),
            f"{self.share:.2f}",
            self.form,
            self.coding,
            f"{self.entry_bytes / 1e6:.2f}",
            self.step_s.text(1000),
            self.over_kv.text(digits=2),
        ]


@dataclass(frozen=True, slots=True)
class KeptInput:
    """The coded input of an attention, and the modulation and projection that make keys and values of it."""

    parts: Parts
    shift: torch.Tensor
    scale: torch.Tensor
    projection: Projection


@dataclass(frozen=True, slots=True)
class FromInputs:
    """``Rows`` computed from kept inputs (form Y)."""

    coding: ActivationCodec
    by_attention: dict[str, KeptInput]

    @property
    def size_bytes(self) -> int:
        """The bytes of the inputs; a block's two attentions share theirs."""
        inputs = [kept for attention_id, kept in self.by_attention.items() if "." not in attention_id]
        return sum(part.nbytes for kept in inputs for part in kept.parts)

    def lengths(self, attention_id: str) -> tuple[int, int]:
        """Return the image rows and the text rows at an attention; no text rows are kept."""
        return self.by_attention[attention_id].parts[0].shape[0], 0

    def read(self, attention_id: str, into: torch.Tensor) -> None:
        """Compute the keys and values of an attention from its kept input."""
        kept = self.by_attention[attention_id]
        x = self.coding.unpack(kept.parts, into.new_empty(kept.parts[0].shape))
        branch = torch.zeros(len(x), dtype=torch.long, device=x.device)
        qkv, heads = kept.projection.qkv, kept.projection.heads
        width = qkv.weight.shape[0] // 3
        bias = None if qkv.bias is None else qkv.bias[width:]
        rows = F.linear(adaln_modulate(x, kept.shift, kept.scale, branch), qkv.weight[width:], bias)
        rows = rows.view(len(x), 2, heads.count, -1)
        if heads.k_norm is not None:
            rows[:, 0] = F.rms_norm(rows[:, 0], rows.shape[-1:], heads.k_norm, heads.norm_epsilon)
        into.copy_(rows)


class Sd3Inputs(Sd3Backbone):
    """An SD3 transformer that keeps the inputs of its blocks."""

    @torch.inference_mode()
    def inputs_of(self, lane: LaneInput, coding: ActivationCodec) -> FromInputs:
        """Return the inputs of all blocks in a pass over one lane of one branch."""
        size = lane.latents.shape[-2] // self._patch, lane.latents.shape[-1] // self._patch
        packing = pack([lane], [size[0] * size[1]], self.device)
        image, text = self._patches([lane], [size])[0], lane.cond.tokens
        tables = self._modulations(self._embedded([lane], packing))
        by_attention: dict[str, KeptInput] = {}
        for index, block in enumerate(self._blocks):
            image_tables = [next(tables) for _ in range(block.image.chunks)]
            text_tables = [next(tables) for _ in range(block.text.chunks)]
            parts = coding.pack(image)
            by_attention[str(index)] = KeptInput(parts, image_tables[0], image_tables[1], block.image.projection)
            if block.second is not None:
                by_attention[f"{index}.second"] = KeptInput(parts, image_tables[6], image_tables[7], block.second)
            image, text = run_block(block, image, text, image_tables, text_tables, packing)
        return FromInputs(coding, by_attention)


def measure_forms(subject: Subject, sides: Sequence[int], lanes: int, patience: Patience) -> list[FormRow]:
    """Measure both forms in every coding, size and share."""
    backbone = Sd3Inputs(subject.transformer, subject.backbone.shape.pixels_per_latent)
    return [
        row for side in sides for share in SHARES for row in _measure(subject, backbone, side, share, lanes, patience)
    ]


def forms_report(rows: Sequence[FormRow]) -> Report:
    """Return the table, and what the smaller form costs."""
    slower = [row.over_kv.median for row in rows if row.form == "Y"]
    remark = f"Y takes half the bytes and {min(slower):.2f} to {max(slower):.2f} times the step."
    return Report("two forms of kept activations", COLUMNS, [row.cells() for row in rows], rows, [remark])


def _measure(
    subject: Subject, backbone: Sd3Inputs, side: int, share: float, lanes: int, patience: Patience
) -> list[FormRow]:
    batches: dict[tuple[str, str], list[LaneInput]] = {}
    seeds = range(1, lanes + 1)
    for coding in CODINGS:
        batches["KV", coding] = [masked_lane(subject, seed, side, share, coding, reads_text=False) for seed in seeds]
        batches["Y", coding] = [
            from_inputs(backbone, lane, ACTIVATION_CODECS[coding]) for lane in batches["KV", coding]
        ]
    runs: dict[str, Callable[[], Any]] = {
        " ".join(name): lambda batch=batch: subject.backbone.velocity(batch)  # type: ignore[misc]
        for name, batch in batches.items()
    }
    times = take_turns(runs, subject.device, patience)
    results = []
    for (form, coding), batch in batches.items():
        step_s = times[f"{form} {coding}"]
        entry: Any = batch[0].reuse.cond if batch[0].reuse is not None else None
        results.append(
            FormRow(
                model=subject.name,
                pixels=side * subject.backbone.shape.pixels_per_token,
                lanes=lanes,
                share=share,
                form=form,
                coding=coding,
                entry_bytes=entry.size_bytes,
                step_s=Quartiles.of(step_s),
                over_kv=ratios(step_s, times[f"KV {coding}"]),
            )
        )
    return results


def from_inputs(backbone: Sd3Inputs, lane: LaneInput, coding: ActivationCodec) -> LaneInput:
    """Return a lane whose entries are in form Y in place of keys and values."""
    assert lane.reuse is not None
    whole = replace(lane, reuse=None, negative=None)
    cond = backbone.inputs_of(whole, coding)
    negative = None if lane.negative is None else backbone.inputs_of(replace(whole, cond=lane.negative), coding)
    return replace(lane, reuse=replace(lane.reuse, cond=cond, negative=negative))
