"""The house rules that no linter knows."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = [*ROOT.glob("lego_serve/**/*.py"), *ROOT.glob("loadgen/**/*.py")]


def test_layers_hold() -> None:
    """import-linter keeps every contract of pyproject.toml."""
    script = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_file_is_longer_than_300_lines() -> None:
    """A file that needs a table of contents is two files."""
    long = {str(f.relative_to(ROOT)): n for f in SOURCES if (n := len(f.read_text().splitlines())) > 300}
    assert not long


def test_kernels_is_no_package() -> None:
    """A `kernels/__init__.py` would shadow the package of that name that diffusers imports."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_every_module_says_what_it_is() -> None:
    """Each source file with code in it starts with a docstring."""
    silent = [
        str(f.relative_to(ROOT)) for f in SOURCES if f.read_text().strip() and not f.read_text().startswith('"""')
    ]
    assert not silent
