"""What other kinds of linear layers do to images: ``python -m benchmarks.engine linear-kinds --samples FILE``.

Each of lego-tiny's images is drawn by every row from the same noise: by the dense model, by layers in 8 bits, and with
activations in 2:4 as they are, with their norms given back, and with residuals in closed form besides, in the second
layers of the MLPs alone and in all layers of the blocks.  With a file of ``lego-serve tune sparse24`` its layers too.
It says nothing of speed: on a CPU 8-bit floats and 2:4 are emulated.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.engine.compute.tiers import GUIDANCE, PATH, STEPS, right_counts
from lego_kernels.sparse24 import sparse24_rows
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.layers import Linear, LinearKind, block_layers
from lego_serve.models.ragged.linear_kinds.roles import role_of
from lego_serve.models.ragged.linear_kinds.sparse24_rows import Residual, norm_scale, use_sparse24_rows
from lego_serve.models.registry import ModelSpec, built_in_folder
from lego_serve.models.sparse24_files import read_sparse24
from lego_serve.models.weights_digest import denoiser_digest
from lego_serve.tuning.lessons import Lesson, Lessons
from lego_serve.tuning.names import named_by
from lego_serve.tuning.quality import Row, Sample, measure_all, table
from lego_serve.tuning.sample_file import SampleFile
from lego_serve.tuning.sparse24.measuring import fit_residuals
from lego_serve.tuning.sparse24.search import FITTED_LESSONS, FITTED_STEPS, spread
from lego_serve.tuning.trajectories import Calibration
from lego_serve.zoo.judge.prompts import faults, mixed_prompts
from lego_serve.zoo.world.captions import calibration_captions

RANK, FIRST_SEED = 16, 30_000
SPEC = ModelSpec("lego-tiny", PATH, dtype="float32", max_sequence_length=0)
PARTS: dict[str, tuple[str, ...]] = {"second layers": ("second",), "all layers": ("qkv", "out", "first", "second")}


@dataclass(frozen=True, slots=True)
class ThinnedRows:
    """The product over rows in 2:4 without a residual, and without their norms given back unless ``has_norm``."""

    weight: torch.Tensor
    ops: LinearOps
    has_norm: bool

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute the product for rows x (rows, inputs)."""
        kept = sparse24_rows(x)
        out = self.ops.linear(kept, self.weight)
        out = out * norm_scale(x, kept, self.ops) if self.has_norm else out
        return out if bias is None else out + bias


def rows_of(residuals: Mapping[str, Residual], trained: Sequence[Path]) -> list[Row]:
    """Return the rows, given a residual for each layer of the blocks: dense, 8 bits, 2:4, and the layers of files.

    Raises ValueError for a file that is for other weights.
    """
    rows = [Row("exact", None, STEPS)]
    rows += [_drawn_by(kind, OfflinePipeline.load(replace(SPEC, linear=kind))) for kind in ("int8", "fp8")]
    for part, roles in PARTS.items():
        rows.append(_thinned(f"2:4, {part}", roles, has_norm=False))
        rows.append(_thinned(f"2:4 and norm, {part}", roles, has_norm=True))
        chosen = {name: residual for name, residual in residuals.items() if role_of(name) in roles}
        rows.append(_with_residuals(f"2:4, norm and rank {RANK}, {part}", chosen))
    for file in trained:
        kept = read_sparse24(file, denoiser_digest(built_in_folder(PATH)))
        rows.append(_with_residuals(f"2:4, {len(kept)} of {len(residuals)} layers of {file.name}", kept))
    return rows


def _drawn_by(name: str, student: OfflinePipeline) -> Row:
    return Row(name, None, STEPS, student=student)


def _thinned(name: str, roles: Sequence[str], *, has_norm: bool) -> Row:
    student = OfflinePipeline.load(SPEC)
    for path, layer in block_layers(vars(student.backbone)).items():
        if role_of(path) in roles:
            layer.kind = _kind(layer, has_norm=has_norm)
    return _drawn_by(name, student)


def _kind(layer: Linear, *, has_norm: bool) -> LinearKind:
    return ThinnedRows(layer.weight, layer.ops, has_norm)


def _with_residuals(name: str, residuals: Mapping[str, Residual]) -> Row:
    student = OfflinePipeline.load(SPEC)
    use_sparse24_rows(student.backbone, SPEC.name, residuals)
    return _drawn_by(name, student)


def closed_form(pipeline: OfflinePipeline, lessons: Sequence[Lesson], steps: int = STEPS) -> dict[str, Residual]:
    """Return the residual of each layer of the blocks that fits its rows in lessons."""
    names = list(block_layers(vars(pipeline.backbone)))
    found = fit_residuals(pipeline.backbone, lessons, names, RANK, spread(steps, FITTED_STEPS))
    return {name: fitted.residual for name, fitted in found}


def measure_linear_kinds(file: Path, state: Path, side: int, count: int, trained: Sequence[Path]) -> list[Sample]:
    """Measure ``count`` prompts of each kind, of one object and of two in turn, as far as the file lacks them.

    Residuals are fitted to lessons that are kept in ``state``.  Returns all samples.  Raises LegoError for a file with
    samples of other rows, or of other files of layers.
    """
    torch.set_num_threads(1)
    pipeline = OfflinePipeline.load(SPEC)
    captions = calibration_captions(2 * FITTED_LESSONS * 8)
    learned = Lessons(state, pipeline, Calibration(captions, side, side, GUIDANCE, FIRST_SEED), STEPS, "euler")
    rows = rows_of(closed_form(pipeline, learned.first(FITTED_LESSONS)), trained)
    prompts = mixed_prompts(2 * count)
    images = Calibration(tuple(prompt.text for prompt in prompts), side, side, GUIDANCE)
    judge = lambda index, pixels: not faults(prompts[index], pixels)  # noqa: E731 - it is passed on at once
    weights = [
        denoiser_digest(built_in_folder(PATH)),
        *(hashlib.sha256(each.read_bytes()).hexdigest() for each in trained),
    ]
    kept = SampleFile(file, named_by(weights, side, GUIDANCE, STEPS, [row.facts for row in rows]))
    measure_all(pipeline, images, rows, kept, steps=STEPS, judge=judge)
    return kept.samples


def markdown(samples: Sequence[Sample]) -> str:
    """Return the table of samples."""
    lines = [
        "| layers | images | PSNR mean (least) | SSIM mean (least) | right, one + two |",
        "|---|---|---|---|---|",
    ]
    for name, row in table(samples).items():
        psnr = "" if name == "exact" else f"{row['psnr_mean']:.1f} ({row['psnr_least']:.1f})"
        ssim = "" if name == "exact" else f"{row['ssim_mean']:.4f} ({row['ssim_least']:.3f})"
        lines.append(f"| {name} | {row['images']:.0f} | {psnr} | {ssim} | {right_counts(samples, name)} |")
    return "\n".join(lines)
