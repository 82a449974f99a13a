"""Programs that the checks run, and the manifests that they look at."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parents[1]
KUBERNETES = HERE / "kubernetes"
OVERLAYS = ("cpu-dev", "single-gpu", "prod-ha", "prod-autoscaled")
APT = {"promtool": "prometheus", "amtool": "prometheus-alertmanager"}
Manifest = Mapping[str, Any]


class ToolMissing(Exception):
    """A program is not there, and nobody has said that it must be (CI=true)."""


def program(name: str) -> str:
    """Where a program is: beside this Python, or on the path.  Raises ToolMissing, or under CI ends the checks."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        hint = f"apt-get install {APT[name]}" if name in APT else f"pip install -e '.[dev]' has {name}"
        if os.environ.get("CI") == "true":
            raise SystemExit(f"error: {name} is missing: {hint}")
        raise ToolMissing(f"without {name}: {hint}")
    return found


def run(name: str, *words: str | Path, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end, with a text as its input."""
    return subprocess.run([program(name), *map(str, words)], input=text, capture_output=True, text=True, check=False)


def complaint(name: str, *words: str | Path, text: str | None = None) -> list[str]:
    """What a program complains of: its output where it fails."""
    done = run(name, *words, text=text)
    return [] if done.returncode == 0 else [(done.stdout + done.stderr).strip()]


@cache
def rendered(folder: Path) -> tuple[Manifest, ...]:
    """The manifests of a folder, as ``kubectl kustomize`` makes them without a network.  Raises ValueError."""
    command: Sequence[str] = [program("kubectl"), "kustomize", str(folder)]
    if os.geteuid() == 0 and shutil.which("unshare"):
        command = ["unshare", "-n", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"{folder}: {done.stderr.strip()}")
    return tuple(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> tuple[Manifest, ...]:
    """The manifests of an overlay."""
    return rendered(KUBERNETES / "overlays" / name)


def with_component(name: str) -> tuple[Manifest, ...]:
    """The manifests of the base with one component.  Raises ValueError."""
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "kubernetes"
        shutil.copytree(KUBERNETES, copied)
        (copied / "kustomization.yaml").write_text(f"resources: [base]\ncomponents: [components/{name}]\n")
        return rendered(copied)


def named(manifest: Manifest) -> str:
    """A manifest's kind and name."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"
