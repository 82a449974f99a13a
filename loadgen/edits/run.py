"""Runs a suite of edits."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from loadgen.edits.grid import write_grid
from loadgen.edits.image_quality import FULL, comparable_edits, edit_quality
from loadgen.edits.plan import EditsPlan, EditsSuite
from loadgen.edits.request import EditRequest
from loadgen.edits.server_config import edits_config, edits_weights
from loadgen.edits.workload import EditsWorkload
from loadgen.images import read_pixels
from loadgen.mixed.bench import run_one_by_one
from loadgen.mixed.hooks import ReportSupplement, SuiteHooks
from loadgen.mixed.rounds import Measurements
from loadgen.mixed.run import SEED, compare_mixed
from loadgen.mixed.systems import SystemFiles, http_systems
from loadgen.progress import OnLine
from loadgen.server import Server
from loadgen.server_config import with_backbones
from loadgen.traffic import ImageRequest


def compare_edits(
    chosen: EditsSuite,
    weights: Path,
    max_sequence_length: int,
    config: Path,
    out: Path,
    *,
    quick: bool,
    on_line: OnLine,
) -> dict[str, object]:
    """Run the suite, write ``summary.json``, ``report.html`` and ``edits.png`` into ``out``, return the summary."""
    out.mkdir(parents=True, exist_ok=True)
    suite, plan = chosen.suite, chosen.plan
    workload = EditsWorkload(suite, plan, SEED)
    loaded = edits_weights(weights, plan, out)

    def lego_config(backbones: int | None) -> Path:
        return with_backbones(edits_config(config, suite.model, loaded, plan, out), suite.model, backbones, out)

    systems = http_systems(SystemFiles(suite.model, loaded, max_sequence_length, out), lego_config, edits=True)
    hooks = SuiteHooks(
        workload,
        variants={FULL: without_reuse},
        inspect=lambda server, rated: check_empty_mask(server, workload.sample(0.0)),
        supplement=lambda measured, folder: edit_supplement(plan, measured, folder),
    )
    return compare_mixed(suite, systems, out, quick=quick, on_line=on_line, hooks=hooks)


def without_reuse(request: ImageRequest) -> ImageRequest:
    """Return the same edit without any reuse of activations."""
    assert isinstance(request, EditRequest)
    return replace(request, reuse="exact")


def check_empty_mask(server: Server, request: EditRequest) -> Mapping[str, object]:
    """Check whether an edit with an empty mask returns the template."""
    [sample] = run_one_by_one(server, [request])
    is_same = sample.reply.image is not None and np.array_equal(
        read_pixels(sample.reply.image), read_pixels(request.image)
    )
    return {"empty_mask_returns_the_template": is_same}


def edit_supplement(plan: EditsPlan, measured: Measurements, folder: Path) -> ReportSupplement:
    """Return the facts on the masks, the figures of the last round's edits, and a grid of some of them."""
    edits = comparable_edits(measured, plan.compared)
    shown = edits[:: max(1, len(edits) // plan.shown)][: plan.shown]
    grids = [write_grid(shown, folder / "edits.png")] if shown else []
    return ReportSupplement(mask_facts(plan, measured), edit_quality(edits), grids)


def mask_facts(plan: EditsPlan, measured: Measurements) -> Mapping[str, object]:
    """Return facts on the masks and templates of the closed loops and common rates of all rounds."""
    runs = [run for of_round in measured.lego for run in (of_round.closed, of_round.rated)]
    edits = [request for run in runs for request in run.requests if isinstance(request, EditRequest)]
    ratios = np.array([request.mask_ratio for request in edits])
    most = np.bincount([request.template for request in edits], minlength=plan.templates).max()
    return {
        "edits": len(edits),
        "mask_ratio_mean": round(float(ratios.mean()), 4),
        "mask_ratio_wanted": round(plan.ratios.mean, 4),
        "empty_masks_share": round(float((ratios == 0).mean()), 4),
        "templates": plan.templates,
        "most_popular_template_share": round(float(most / len(edits)), 4),
        "mask_feather": plan.mask_feather,
        "captioned": plan.captioned,
        "template_bytes_per_backbone": plan.template_bytes,
        "for_speed_alone": plan.side > plan.trained_side,
    }
