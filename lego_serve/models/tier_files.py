"""Reads and writes the book of tiers that lies beside a model's weights."""

import json
from pathlib import Path

from lego_serve.core.tiers.book import EXACT, TierBook
from lego_serve.core.tiers.book_json import FILE, from_json, to_json
from lego_serve.models.registry import BUILT_IN, built_in_folder
from lego_serve.models.weights_digest import DENOISER, weights_digest

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
        book.check(weights_digest(folder, DENOISER))
    routed = next((run for run in book.runs if run.block_rows is not None), None)
    if routed is not None and not (folder is not None and (folder / ROUTER).is_file()):
        where = f"{ROUTER} does not lie beside its weights"
        raise ValueError(f"its tier {routed.tier} has rows per block, and {where}: `lego-serve tune prune` makes one")
    return book


def write_book(book: TierBook, file: Path) -> None:
    """Write a book, all at once.  Raises OSError."""
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(to_json(book), indent=1) + "\n")
    beside.replace(file)
