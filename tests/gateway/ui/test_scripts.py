"""The pages' own scripts: their types, their style and their units, checked by deno, which pip installs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STATIC = "lego_serve/gateway/ui/static"
DENO = Path(sys.executable).parent / "deno"


def deno(*words: str) -> None:
    """Run deno, without a network and without a folder of its own in the user's."""
    environment = os.environ | {"DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
    done = subprocess.run([DENO, *words], cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


UNITS = ("test", "--quiet", "--no-check", "--allow-run=sh", "tests/ui")


@pytest.mark.parametrize("words", [("check", "--quiet", STATIC), ("lint", "--quiet", STATIC), UNITS])
def test_scripts(words: tuple[str, ...]) -> None:
    """Types by JSDoc, deno's rules, and the tests in tests/ui."""
    deno(*words)
