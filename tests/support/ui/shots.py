"""Keeps images of pages where ``LEGO_SCREENSHOTS`` names a folder for them."""

import io
import os
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

SHOTS = os.environ.get("LEGO_SCREENSHOTS")


def keep(page: Page, name: str, *, full: bool = True) -> None:
    """Keep an image of a page, of few colours so that it is small."""
    if SHOTS is None:
        return
    shot = Image.open(io.BytesIO(page.screenshot(full_page=full)))
    Path(SHOTS).mkdir(parents=True, exist_ok=True)
    few = shot.convert("RGB").quantize(160, dither=Image.Dither.NONE)
    few.save(Path(SHOTS) / f"{name}.png", optimize=True)
