"""The README's blocks are run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
COMMANDS = [line for line in SHELL if line.startswith("lego-serve") and " serve" not in line]


def environment(url: str) -> dict[str, str]:
    """The shell of a reader who has the package's scripts on the path."""
    scripts = str(Path(sys.executable).parent)
    return os.environ | {"LEGO_SERVE_URL": url, "PATH": f"{scripts}:{os.environ['PATH']}"}


def run(command: list[str] | str, folder: Path, url: str) -> None:
    """Run what a reader would type, in an empty folder."""
    is_shell = isinstance(command, str)
    done = subprocess.run(
        command, shell=is_shell, cwd=folder, env=environment(url), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.ray
@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python_blocks_run(block: str, server, tmp_path: Path) -> None:
    """Every Python block ends without an error."""
    run([sys.executable, "-c", block.replace("http://127.0.0.1:8000", server.url)], tmp_path, server.url)


@pytest.mark.ray
@pytest.mark.parametrize("command", COMMANDS)
def test_lego_serve_commands_run(command: str, server, tmp_path: Path) -> None:
    """Every `lego-serve` line that needs no other server ends well."""
    (tmp_path / "lego_serve").symlink_to(ROOT / "lego_serve")
    run(command, tmp_path, server.url)


def test_links_lead_somewhere() -> None:
    """Every relative link names a file of the repository."""
    missing = [
        link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link and not (ROOT / link).exists()
    ]
    assert not missing
