"""Keeps images of pages where ``LEGO_SCREENSHOTS`` names a folder for them."""

import io
import os
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

SHOTS = os.environ.get("LEGO_SCREENSHOTS")


def _whole(page: Page) -> bytes:
    """Return an image of a whole page as on a screen that is as high: what is fixed to its edges covers nothing."""
    size = page.viewport_size
    assert size is not None
    height = int(page.evaluate("document.documentElement.scrollHeight"))
    page.set_viewport_size({"width": size["width"], "height": max(size["height"], height)})
    page.wait_for_timeout(300)
    shot = page.screenshot()
    page.set_viewport_size(size)
    return shot


def keep(page: Page, name: str, *, full: bool = True) -> None:
    """Keep an image of a page, of few colours so that it is small."""
    if SHOTS is None:
        return
    shot = Image.open(io.BytesIO(_whole(page) if full else page.screenshot()))
    Path(SHOTS).mkdir(parents=True, exist_ok=True)
    few = shot.convert("RGB").quantize(160, dither=Image.Dither.NONE)
    few.save(Path(SHOTS) / f"{name}.png", optimize=True)
