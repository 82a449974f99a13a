"""What is done in the playground again and again."""

import os
import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, expect

PROMPT = 'a "large" red circle, it\'s <b>left</b>\nand $HOME `below` \\ ü'
MADE = re.compile("Done in")


def generate(page: Page, prompt: str = "a red circle", seed: int = 5) -> None:
    """Make an image and wait for it."""
    page.locator("#field-prompt").fill(prompt)
    page.locator("#field-seed").fill(str(seed))
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text(MADE)).to_be_visible()


def run_code(code: str, language: str, folder: Path) -> Path:
    """Run the code of a page in a folder as it stands; return the image that it has made there."""
    command = [sys.executable, "-c", code] if language == "Python" else ["bash", "-c", code]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where the command of this checkout is
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}
    )
    assert done.returncode == 0, done.stderr
    return folder / ("image.png" if language == "CLI" else "image1.png")
