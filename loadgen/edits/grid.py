"""An image of images: a row for each edit, a column for what was given and for what each side made of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from loadgen.edits.looked_at import Edited

COLUMNS = ("template", "mask", "lego_serve, full", "lego_serve, reused", "their difference x 8", "diffusers")
STRONGER = 8
CELL, GAP, LINE = 192, 6, 18  # pixels


def write_grid(edits: Sequence[Edited], path: Path) -> Path:
    """Write the rows as one PNG file, each with its prompt beneath."""
    row = CELL + LINE + GAP
    sheet = Image.new("RGB", (GAP + len(COLUMNS) * (CELL + GAP), LINE + len(edits) * row), "white")
    drawing = ImageDraw.Draw(sheet)
    for column, name in enumerate(COLUMNS):
        drawing.text((GAP + column * (CELL + GAP), 2), name, fill="black")
    for index, edit in enumerate(edits):
        top = LINE + index * row
        for column, cell in enumerate(_cells(edit)):
            image = Image.fromarray(cell).resize((CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(image, (GAP + column * (CELL + GAP), top))
        text = f"{edit.request.prompt}; mask {edit.request.mask_ratio:.2f}"
        drawing.text((GAP, top + CELL + 2), text, fill="black")
    sheet.save(path)
    return path


def _cells(edit: Edited) -> tuple[np.ndarray, ...]:
    difference = np.abs(edit.full.astype(int) - edit.reused.astype(int))
    mask = np.repeat(np.where(edit.mask, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    stronger = np.minimum(STRONGER * difference, 255).astype(np.uint8)
    return edit.template, mask, edit.full, edit.reused, stronger, edit.baseline
