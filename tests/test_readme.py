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


@pytest.mark.ray
@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python_blocks_run(block: str, server, tmp_path: Path) -> None:
    """Every Python block ends without an error."""
    code = block.replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(server.url), capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.ray
@pytest.mark.parametrize("command", COMMANDS)
def test_lego_serve_commands_run(command: str, server, tmp_path: Path) -> None:
    """Every `lego-serve` line that needs no other server ends well."""
    (tmp_path / "lego_serve").symlink_to(ROOT / "lego_serve")
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment(server.url), capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere() -> None:
    """Every relative link names a file of the repository."""
    missing = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link and not (ROOT / link).exists()]
    assert not missing
