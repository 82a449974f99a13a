"""A book of tiers as JSON values, as it lies beside a model's weights in ``tiers.json``."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.core.tiers.book import EXACT, TierBook, TierRun
from lego_serve.core.tiers.checkpoints import Checkpoint
from lego_serve.core.tiers.grids import Grid
from lego_serve.core.tiers.own_rows import OwnRows

FILE = "tiers.json"
FORMAT = 1


def to_json(book: TierBook) -> dict[str, Any]:
    """Return a book as it is kept; which tier is the default is not the file's to say."""
    return {"format": FORMAT, "weights": book.weights, "runs": [_run_to_json(run) for run in book.runs]}


def from_json(content: object, default: str = EXACT) -> TierBook:
    """Return the book of a file.  Raises ValueError for a damaged one, and for a default that it does not have."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"this is no file of tiers of format {FORMAT}")
    try:
        return TierBook(tuple(map(_run_from_json, content["runs"])), default, str(content["weights"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the file of tiers is damaged: {type(error).__name__} {error}") from None


def _run_to_json(run: TierRun) -> dict[str, Any]:
    kept: dict[str, Any] = {
        "tier": run.tier,
        "sampler": run.sampler,
        "steps": run.steps,
        "pixels": list(run.pixels),
        "grid": {"sampler": run.grid.sampler, "sigmas": list(run.grid.sigmas)},
        "quality": dict(run.quality),
    }
    if run.own_rows is not None:
        kept["own_rows"] = asdict(run.own_rows)
    if run.block_rows is not None:
        kept["block_rows"] = [list(shares) for shares in run.block_rows.shares]
    if run.checkpoint is not None:
        kept["checkpoint"] = asdict(run.checkpoint)
    return kept


def _run_from_json(entry: Mapping[str, Any]) -> TierRun:
    low, high = entry["pixels"]
    grid = Grid(entry["grid"]["sampler"], tuple(map(float, entry["grid"]["sigmas"])))
    own = entry.get("own_rows")
    own_rows = None if own is None else OwnRows(float(own["share"]), int(own["warm"]), int(own["every"]))
    shares = entry.get("block_rows")
    return TierRun(
        tier=entry["tier"],
        sampler=entry["sampler"],
        steps=int(entry["steps"]),
        pixels=(int(low), int(high)),
        grid=grid,
        quality=entry["quality"],
        own_rows=own_rows,
        checkpoint=_checkpoint_from_json(entry.get("checkpoint")),
        block_rows=None if shares is None else BlockRows(tuple(tuple(map(float, each)) for each in shares)),
    )


def _checkpoint_from_json(entry: Mapping[str, Any] | None) -> Checkpoint | None:
    if entry is None:
        return None
    guidance = entry["guidance"]
    return Checkpoint(str(entry["path"]), str(entry["weights"]), None if guidance is None else float(guidance))
