"""A grid of edits: a row for each edit, columns for its inputs and for the images that each system made."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from loadgen.edits.image_quality import EditImages

COLUMNS = ("template", "mask", "lego_serve, full", "lego_serve, reused", "their difference x 8", "diffusers")
GAIN = 8  # of the difference column
CELL, GAP, LINE = 192, 6, 18  # pixels


def write_grid(edits: Sequence[EditImages], path: Path) -> Path:
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


def _cells(edit: EditImages) -> tuple[np.ndarray, ...]:
    difference = np.abs(edit.full.astype(int) - edit.reused.astype(int))
    mask = np.repeat(np.where(edit.mask, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    amplified = np.minimum(GAIN * difference, 255).astype(np.uint8)
    return edit.template, mask, edit.full, edit.reused, amplified, edit.baseline
