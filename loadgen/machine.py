"""Describes where a measurement was made: the machine, the versions, the commit."""

import datetime
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

CORES = 2  # both systems of a comparison run on the same two
PACKAGES = ("torch", "diffusers", "transformers", "ray", "fastapi", "numpy", "lego-serve")


def pin(cores: int) -> list[int]:
    """Restrict this process and its children to the first ``cores`` cores it may use, and return those."""
    chosen = sorted(os.sched_getaffinity(0))[:cores]
    os.sched_setaffinity(0, chosen)
    return chosen


def busy_share(seconds: float) -> float:
    """Return the share of all cores' time that went to anything while this process slept for so long."""
    before = _cpu_ticks()
    time.sleep(seconds)
    total, idle = (after - then for after, then in zip(_cpu_ticks(), before, strict=True))
    return 1 - idle / total if total else 0.0


def _cpu_ticks() -> tuple[int, int]:
    """Return the ticks of all cores since the start, and those in which they idled or waited for a disk."""
    fields = [int(field) for field in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    return sum(fields), fields[3] + fields[4]


def describe_machine() -> dict[str, object]:
    """Return the CPU, its cores, the memory, and the load before the measurement."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "load_1min_before": round(os.getloadavg()[0], 2),
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of the interpreter and of the installed packages whose speed is measured."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def describe_commit(folder: Path) -> str:
    """Return the commit checked out in ``folder``, marked when files differ from it; "unknown" outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (" with changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def describe_run(pinned: Sequence[int], *, quick: bool) -> dict[str, object]:
    """Return the facts of a summary on where, when and how it was made."""
    return {
        "command": shlex.join(["python", "-m", "loadgen", *sys.argv[1:]]),
        "commit": describe_commit(Path(__file__).parent),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "quick": quick,
        "machine": {**describe_machine(), "pinned_to": list(pinned)},
        "versions": describe_versions(),
    }
