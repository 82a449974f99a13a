"""Two forms a template's activations could be kept in: keys and values, or what each block was given.

Keys and values after norm and rotation (KV) take twice the bytes of the blocks' inputs (Y, as InstGenIE has it), from
which they are made again at every step by a norm, a modulation and a product over all rows that are read.
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

KEPT_AS = ("bfloat16", "int8")
COLUMNS = ("model", "image", "lanes", "computed", "form", "coding", "MB an entry", "ms a step", "over KV")


@dataclass(frozen=True, slots=True)
class FormRow:
    """One form and coding at one share of one image; the ratio is over keys and values in the same coding."""

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
        """The row of the table."""
        return [
            self.model, f"{self.pixels} x {self.pixels}", str(self.lanes), f"{self.share:.2f}", self.form, self.coding,
            f"{self.entry_bytes / 1e6:.2f}", self.step_s.told(1000), self.over_kv.told(digits=2),
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class KeptInput:
    """What an attention was given, coded, and what makes keys and values of it."""

    parts: Parts
    shift: torch.Tensor
    scale: torch.Tensor
    projection: Projection


@dataclass(frozen=True, slots=True)
class FromInputs:
    """``Rows`` made of kept inputs (form Y)."""

    coding: ActivationCodec
    by_attention: dict[str, KeptInput]

    @property
    def size_bytes(self) -> int:
        """What it takes; a block's two attentions share their input."""
        return sum(
            p.nbytes for attention_id, kept in self.by_attention.items() if "." not in attention_id for p in kept.parts
        )

    def lengths(self, attention_id: str) -> tuple[int, int]:
        """The image rows at an attention; none of the text's."""
        return self.by_attention[attention_id].parts[0].shape[0], 0

    def read(self, attention_id: str, into: torch.Tensor) -> None:
        """Make keys and values of what was kept."""
        kept = self.by_attention[attention_id]
        given = self.coding.unpack(kept.parts, into.new_empty(kept.parts[0].shape))
        of = torch.zeros(len(given), dtype=torch.long, device=given.device)
        qkv, heads = kept.projection.qkv, kept.projection.heads
        width = qkv.weight.shape[0] // 3
        bias = None if qkv.bias is None else qkv.bias[width:]
        rows = F.linear(adaln_modulate(given, kept.shift, kept.scale, of), qkv.weight[width:], bias)
        rows = rows.view(len(given), 2, heads.count, -1)
        if heads.k_norm is not None:
            rows[:, 0] = F.rms_norm(rows[:, 0], rows.shape[-1:], heads.k_norm, heads.norm_epsilon)
        into.copy_(rows)


class Sd3Inputs(Sd3Backbone):
    """An SD3 transformer that keeps what its blocks are given."""

    @torch.inference_mode()
    def inputs_of(self, lane: LaneInput, coding: ActivationCodec) -> FromInputs:
        """What one lane of one branch leaves behind."""
        size = lane.latents.shape[-2] // self._patch, lane.latents.shape[-1] // self._patch
        packing = pack([lane], [size[0] * size[1]], self.device)
        image, text = self._patches([lane], [size])[0], lane.cond.tokens
        tables = self._modulations([lane], packing)
        by_attention: dict[str, KeptInput] = {}
        for index, block in enumerate(self._blocks):
            of_image, of_text = ([next(tables) for _ in range(s.chunks)] for s in (block.image, block.text))
            parts = coding.pack(image)
            by_attention[str(index)] = KeptInput(parts, of_image[0], of_image[1], block.image.projection)
            if block.second is not None:
                by_attention[f"{index}.second"] = KeptInput(parts, of_image[6], of_image[7], block.second)
            image, text = run_block(block, image, text, of_image, of_text, packing)
        return FromInputs(coding, by_attention)


def measure_forms(subject: Subject, sides: Sequence[int], lanes: int, patience: Patience) -> list[FormRow]:
    """Both forms in every coding, over sizes and shares."""
    backbone = Sd3Inputs(subject.transformer, subject.backbone.shape.pixels_per_latent)
    return [
        row for side in sides for share in SHARES for row in _measure(subject, backbone, side, share, lanes, patience)
    ]


def forms_report(rows: Sequence[FormRow]) -> Report:
    """The table, and what the smaller form costs."""
    slower = [row.over_kv.median for row in rows if row.form == "Y"]
    remark = f"Y takes half the bytes and {min(slower):.2f} to {max(slower):.2f} times the step."
    return Report("two forms of kept activations", COLUMNS, [row.cells() for row in rows], rows, [remark])


def _measure(
    subject: Subject, backbone: Sd3Inputs, side: int, share: float, lanes: int, patience: Patience
) -> list[FormRow]:
    batches: dict[tuple[str, str], list[LaneInput]] = {}
    seeds = range(1, lanes + 1)
    for coding in KEPT_AS:
        batches["KV", coding] = [masked_lane(subject, seed, side, share, coding, reads_text=False) for seed in seeds]
        batches["Y", coding] = [
            from_inputs(backbone, lane, ACTIVATION_CODECS[coding]) for lane in batches["KV", coding]
        ]
    runs: dict[str, Callable[[], Any]] = {
        " ".join(name): lambda batch=batch: subject.backbone.velocity(batch)  # type: ignore[misc]
        for name, batch in batches.items()
    }
    times = take_turns(runs, subject.device, patience)
    made = []
    for (form, coding), batch in batches.items():
        taken = times[f"{form} {coding}"]
        kept: Any = batch[0].reuse.cond if batch[0].reuse is not None else None
        made.append(
            FormRow(
                subject.name, side * subject.backbone.shape.pixels_per_token, lanes, share, form, coding,
                kept.size_bytes, Quartiles.of(taken), ratios(taken, times[f"KV {coding}"]),
            )
        )  # fmt: skip
    return made


def from_inputs(backbone: Sd3Inputs, lane: LaneInput, coding: ActivationCodec) -> LaneInput:
    """The same lane with what it reads in form Y."""
    assert lane.reuse is not None
    whole = replace(lane, reuse=None, negative=None)
    cond = backbone.inputs_of(whole, coding)
    negative = None if lane.negative is None else backbone.inputs_of(replace(whole, cond=lane.negative), coding)
    return replace(lane, reuse=replace(lane.reuse, cond=cond, negative=negative))
