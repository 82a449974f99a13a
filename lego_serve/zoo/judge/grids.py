"""Writes sheets of images with their captions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

MARGIN, LINE, COLUMNS = 8, 12, 6


def write_grid(images: Sequence[np.ndarray], captions: Sequence[str], path: Path, columns: int = COLUMNS) -> None:
    """Write a PNG of images (height, width, 3) of one size, each above its caption."""
    height, width = images[0].shape[:2]
    characters = max(8, width // 6)
    lines = max(len(_wrap(c, characters)) for c in captions)
    cell_w, cell_h = width + MARGIN, height + MARGIN + LINE * lines
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * cell_w + MARGIN, rows * cell_h + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = MARGIN + index % columns * cell_w, MARGIN + index // columns * cell_h
        sheet.paste(Image.fromarray(image), (x, y))
        for number, line in enumerate(_wrap(caption, characters)):
            draw.text((x, y + height + LINE * number), line, fill="black")
    sheet.save(path)


def _wrap(text: str, characters: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > characters:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
