"""Packages of Node for tests, each installed by its exact version in a folder of its own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

INSTALL_S = 300.0


def installed(package: str, folder: Path) -> Path:
    """Install a package; without npm the test is skipped, in CI it fails."""
    npm = shutil.which("npm")
    reason = "npm is not installed"
    if npm is not None:
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), package]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
        reason = f"npm cannot install {package}: {done.stderr[-500:]}"
        if done.returncode == 0:
            return folder / "node_modules" / package.rpartition("@")[0]
    assert os.environ.get("CI") != "true", reason
    pytest.skip(reason)
