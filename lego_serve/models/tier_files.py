"""Reads and writes the book of tiers that lies beside a model's weights."""

import json
from dataclasses import replace
from pathlib import Path

from lego_serve.core.tiers.book import EXACT, TierBook, TierRun
from lego_serve.core.tiers.book_json import FILE, from_json, to_json
from lego_serve.models.derived.origin import beside
from lego_serve.models.registry import BUILT_IN, built_in_folder
from lego_serve.models.weights_digest import denoiser_digest

ROUTER = "router.safetensors"  # beside the weights of a model whose tiers have rows per block


def local_folder(path: str) -> Path | None:
    """Return the folder that a model's ``path`` names; None for a hub id, or where there is none."""
    folder = built_in_folder(path) if path.startswith(BUILT_IN) else Path(path).expanduser()
    return folder if folder.is_dir() else None


def read_book(path: str, file: Path | None = None, default: str = EXACT) -> TierBook:
    """Return the tiers of the model at ``path``: of a file of their own, or of the one beside its weights.

    A model without such a file has none but ``exact``.  Raises ValueError, in words that follow the model's name, for a
    file that is missing, damaged or of other weights, for a default that it does not have, and for rows per block
    without a router to choose them.
    """
    folder = local_folder(path)
    chosen = file if file is not None or folder is None else folder / FILE
    if chosen is None or (file is None and not chosen.is_file()):
        return TierBook(default=default)
    try:
        book = from_json(json.loads(chosen.read_text()), default)
    except OSError as error:
        raise ValueError(f"its tiers cannot be read from {chosen}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{chosen}: {error}") from None
    if folder is not None:
        book.check(denoiser_digest(folder))
    _check_router(book, folder)
    return _placed(book, chosen.parent)


def _check_router(book: TierBook, folder: Path | None) -> None:
    """Raise ValueError for a tier with rows per block whose model has no router."""
    routed = next((run for run in book.runs if run.block_rows is not None), None)
    if routed is not None and not (folder is not None and (folder / ROUTER).is_file()):
        where = f"{ROUTER} does not lie beside its weights"
        raise ValueError(f"its tier {routed.tier} has rows per block, and {where}: `lego-serve tune prune` makes one")


def _placed(book: TierBook, folder: Path) -> TierBook:
    """Return a book whose checkpoints are where its file says.  Raises ValueError for one of other weights."""
    return replace(book, runs=tuple(_placed_run(run, folder) for run in book.runs))


def _placed_run(run: TierRun, folder: Path) -> TierRun:
    if run.checkpoint is None:
        return run
    path = beside(run.checkpoint.path, folder)
    found = local_folder(path)
    if found is None and (path.startswith(BUILT_IN) or Path(path).is_absolute()):
        raise ValueError(f"its tier {run.tier} runs {path}, which is not there; add it, or take the tier away")
    try:
        if found is not None:
            run.checkpoint.check(denoiser_digest(found))
    except ValueError as error:
        raise ValueError(f"its tier {run.tier}: {error}") from None
    return replace(run, checkpoint=replace(run.checkpoint, path=path))


def write_book(book: TierBook, file: Path) -> None:
    """Write a book, all at once.  Raises OSError."""
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(to_json(book), indent=1) + "\n")
    beside.replace(file)
