"""Runs a suite of edits."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from loadgen.edits.grid import write_grid
from loadgen.edits.layout import edits_config, edits_weights
from loadgen.edits.looked_at import FULL, edited_by_all, pixels, quality_of
from loadgen.edits.plan import EditsPlan, EditsSuite
from loadgen.edits.request import EditRequest
from loadgen.edits.workload import EditsWorkload
from loadgen.mixed.extras import Extras, View
from loadgen.mixed.lego_layout import with_backbones
from loadgen.mixed.objective import Timed
from loadgen.mixed.plan import Layout
from loadgen.mixed.rounds import Seen
from loadgen.mixed.run import SEED, compare_mixed
from loadgen.mixed.sides import MixedSides, Server, Start, Tell, one_by_one
from loadgen.server import lego_server, monolith
from loadgen.traffic import ImageRequest


def compare_edits(
    chosen: EditsSuite, weights: Path, max_sequence_length: int, config: Path, out: Path, *, quick: bool, tell: Tell
) -> dict[str, object]:
    """Run the suite and write ``summary.json``, ``report.html`` and ``edits.png`` into ``out``; returns the summary."""
    out.mkdir(parents=True, exist_ok=True)
    suite, plan = chosen.suite, chosen.plan
    workload = EditsWorkload(suite, plan, SEED)
    loaded = edits_weights(weights, plan, out)

    def baseline(layout: Layout, compiled: bool) -> Start:
        return monolith(
            loaded,
            max_sequence_length,
            out / "baseline.log",
            replicas=layout.replicas,
            threads=layout.threads,
            compiled=compiled,
            edits=True,
        )

    def lego(backbones: int | None) -> Start:
        derived = edits_config(config, suite.model, loaded, plan, out)
        if backbones is not None:
            derived = with_backbones(derived, suite.model, backbones, out)
        return lego_server(derived, suite.model, out / "server.log")

    def inspect(server: Server, rated: Timed) -> Mapping[str, object]:
        return inspect_empty(server, workload.sample(0.0))

    def view(seen: Seen, folder: Path) -> View:
        return view_of(plan, seen, folder)

    extras = Extras(workload, variants={FULL: in_full}, inspect=inspect, view=view)
    return compare_mixed(suite, MixedSides(baseline, lego), out, quick=quick, tell=tell, extras=extras)


def in_full(request: ImageRequest) -> ImageRequest:
    """The same edit without anything reused."""
    assert isinstance(request, EditRequest)
    return replace(request, reuse="exact")


def inspect_empty(server: Server, request: EditRequest) -> Mapping[str, object]:
    """Whether a mask of nothing brings back the template."""
    [sample] = one_by_one(server, [request])
    is_same = sample.is_ok and np.array_equal(pixels(sample.reply.image or b""), pixels(request.image))
    return {"empty_mask_returns_the_template": bool(is_same)}


def view_of(plan: EditsPlan, seen: Seen, folder: Path) -> View:
    """What a reader must know of the masks, numbers of the last round's edits, and some of them as an image."""
    edits = edited_by_all(seen, plan.compared)
    shown = edits[:: max(1, len(edits) // plan.shown)][: plan.shown]
    grids = [write_grid(shown, folder / "edits.png")] if shown else []
    return View(about(plan, seen), quality_of(edits), grids)


def about(plan: EditsPlan, seen: Seen) -> Mapping[str, object]:
    """The masks and templates as they were drawn for the closed loops and the common rates of all rounds."""
    timed = [each for turn in seen.lego for each in (turn.closed, turn.rated)]
    drawn = [request for each in timed for request in each.requests if isinstance(request, EditRequest)]
    ratios = np.array([request.mask_ratio for request in drawn])
    most = np.bincount([request.template for request in drawn], minlength=plan.templates).max()
    return {
        "edits": len(drawn),
        "mask_ratio_mean": round(float(ratios.mean()), 4),
        "mask_ratio_wanted": round(plan.ratios.mean, 4),
        "empty_masks_share": round(float((ratios == 0).mean()), 4),
        "templates": plan.templates,
        "most_popular_template_share": round(float(most / len(drawn)), 4),
        "mask_feather": plan.mask_feather,
        "captioned": plan.captioned,
        "template_bytes_per_backbone": plan.template_bytes,
        "for_speed_alone": plan.side > plan.trained_side,
    }
