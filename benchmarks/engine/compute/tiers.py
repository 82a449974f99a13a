"""What tiers save and cost: ``python -m benchmarks.engine tiers --samples FILE``, which goes on where it stopped.

Each image is drawn by every row from the same noise, one row after the other in this process: all steps, each tier, and
controls of as many evaluations: plain fewer steps, the shift that suits the number, and DPM++ 2M.  The judge is that of
lego-tiny.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.engine.compute.row_routers import routed_rows
from lego_serve.core.tiers.book import TierBook, TierRun
from lego_serve.core.tiers.checkpoints import Checkpoint
from lego_serve.core.tiers.grids import Grid, shifted_sigmas
from lego_serve.core.tiers.own_rows import OwnRows
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.models.registry import ModelSpec, built_in_folder
from lego_serve.models.tier_files import read_book
from lego_serve.models.weights_digest import denoiser_digest
from lego_serve.tuning.grid_search import EVEN
from lego_serve.tuning.names import named_by
from lego_serve.tuning.quality import Row, Sample, draw_row, measure_all, table
from lego_serve.tuning.sample_file import SampleFile
from lego_serve.tuning.trajectories import Calibration
from lego_serve.zoo.judge.grids import write_grid
from lego_serve.zoo.judge.prompts import faults, mixed_prompts

PATH, STEPS, GUIDANCE = "builtin:lego-tiny", 28, 4.0
TIERS = ("high", "balanced", "fast")
SHIFTS = {14: (3.0, False), 10: (4.0, False), 7: (4.0, False)}  # found by `lego-serve tune grid`; whether even to 1/n


def rows_of(book: TierBook, side: int, evaluations: Sequence[int], sparse: Sequence[Row] = ()) -> list[Row]:
    """Return the rows: all steps first, the tiers, the controls for these numbers of evaluations, then sparse ones."""
    runs = [book.choose(tier, "euler", STEPS, side, side) for tier in TIERS]
    tiers = [Row.of(run) for run in runs if run is not None]
    tiers += [
        _of_student(run, run.checkpoint)
        for run in book.runs
        if run.checkpoint is not None and run.is_for("euler", STEPS, side * side)
    ]
    shifted = [_shifted(n, *SHIFTS[n]) for n in evaluations if n in SHIFTS]
    plain = [Row(f"plain, {n}", None, n, steps=n) for n in evaluations]
    second = [Row(f"DPM++ 2M, {n}", None, n, sampler="dpmpp_2m", steps=n) for n in evaluations]
    return [Row("exact", None, STEPS), *tiers, *shifted, *plain, *second, *sparse]


def _shifted(evaluations: int, shift: float, is_even: bool) -> Row:
    name = f"shift {shift:g}{EVEN if is_even else ''}, {evaluations}"
    last = 1 / evaluations if is_even else 1 / 1000
    return Row(name, Grid("euler", shifted_sigmas(evaluations, shift, last)), evaluations)


def _of_student(run: TierRun, checkpoint: Checkpoint) -> Row:
    """Return the row of a tier that runs other weights."""
    spec = ModelSpec(f"lego-tiny-{run.tier}", checkpoint.path, dtype="float32", max_sequence_length=0)
    student = OfflinePipeline.load(spec)
    return Row(run.tier, run.grid, run.grid.evaluations, student=student, guidance=checkpoint.guidance)


def sparse_rows(own_shares: Sequence[float], router: Path | None, block_shares: Sequence[float]) -> list[Row]:
    """Return the rows of all steps that compute a part of the image's rows, by shares.  Raises ValueError."""
    own = [Row(f"own rows {share:.0%}", None, STEPS, own_rows=OwnRows(share)) for share in own_shares]
    return own + routed_rows(router, denoiser_digest(built_in_folder(PATH)), block_shares, STEPS)


def measure_tiers(
    file: Path,
    side: int,
    count: int,
    evaluations: Sequence[int],
    sparse: Sequence[Row] = (),
    router: Path | None = None,
) -> list[Sample]:
    """Measure ``count`` prompts of each kind, of one object and of two in turn, as far as the file lacks them.

    Returns all samples.  Raises LegoError for a file with samples of other rows, or of another ``router``.
    """
    torch.set_num_threads(1)
    pipeline = OfflinePipeline.load(ModelSpec("lego-tiny", PATH, dtype="float32", max_sequence_length=0))
    book = read_book(PATH)
    rows, prompts = rows_of(book, side, evaluations, sparse), mixed_prompts(2 * count)
    weights = [run.checkpoint.weights for run in book.runs if run.checkpoint is not None]
    weights += [] if router is None else [hashlib.sha256(router.read_bytes()).hexdigest()]
    digest = denoiser_digest(built_in_folder(PATH))
    kept = SampleFile(file, named_by(digest, weights, side, GUIDANCE, STEPS, [row.facts for row in rows]))
    images = Calibration(tuple(prompt.text for prompt in prompts), side, side, GUIDANCE)
    judge = lambda index, pixels: not faults(prompts[index], pixels)  # noqa: E731 - it is passed on at once
    measure_all(pipeline, images, rows, kept, steps=STEPS, judge=judge)
    return kept.samples


def write_sheet(file: Path, side: int, count: int) -> None:
    """Draw the first prompts by all steps and by each tier, and write them side by side."""
    torch.set_num_threads(1)
    pipeline = OfflinePipeline.load(ModelSpec("lego-tiny", PATH, dtype="float32", max_sequence_length=0))
    prompts = mixed_prompts(count)
    images = Calibration(tuple(p.text for p in prompts), side, side, GUIDANCE)
    rows = rows_of(read_book(PATH), side, ())
    columns = [draw_row(pipeline, images, row) for row in rows]
    pixels = [column[index] for index in range(count) for column in columns]
    captions = [f"{row.name}: {prompt.text}" for prompt in prompts for row in rows]
    write_grid(pixels, captions, file, columns=len(rows))


def markdown(samples: Sequence[Sample]) -> str:
    """Return the table of samples; speeds are those of ``exact`` over a row's, decoding included."""
    found = table(samples)
    lines = [
        "| row | images | speed | PSNR mean (least) | SSIM mean (least) | true PSNR mean (least) | right, one + two |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        right = right_counts(samples, name)
        true = f"{row['true_psnr_mean']:.1f} ({row['true_psnr_least']:.1f})" if "true_psnr_mean" in row else ""
        is_exact = name == "exact"
        psnr = "" if is_exact else f"{row['psnr_mean']:.1f} ({row['psnr_least']:.1f})"
        ssim = "" if is_exact else f"{row['ssim_mean']:.4f} ({row['ssim_least']:.3f})"
        speed = found["exact"]["seconds"] / row["seconds"]
        lines.append(f"| {name} | {row['images']:.0f} | {speed:.2f} | {psnr} | {ssim} | {true} | {right} |")
    return "\n".join(lines)


def right_counts(samples: Sequence[Sample], name: str) -> str:
    """Return how many images of a row are right, of one object and of two."""
    own = [sample for sample in samples if sample.row == name]
    kinds = [[s.is_right for s in own if s.image % 2 == kind and s.is_right is not None] for kind in (0, 1)]
    return " + ".join(f"{sum(kind)} of {len(kind)}" for kind in kinds)
