"""Metrics on a full disk: series that find no room count in their process alone, and nothing ends by a bus error."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DISK = "2m"
COUNTS = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector
from lego_serve.process.metric_files import reserve_metric_files

folder = Path(sys.argv[1])
if sys.argv[2] == "reserved":
    reserve_metric_files()
counter = Counter("c", "What is counted.", ["name"], registry=CollectorRegistry())
histogram = Histogram("h", "What is measured.", ["name"], registry=CollectorRegistry())
counter.labels("first").inc()
with (folder / "filler").open("wb", buffering=0) as file:
    try:
        while file.write(b"x" * 4096):
            pass
    except OSError:
        pass
for number in range(3000):
    counter.labels("n" * 100 + str(number)).inc()
counter.labels("first").inc()
histogram.labels("first").observe(1.0)
print("lives")
(folder / "filler").unlink()
for number in range(3000):
    counter.labels("n" * 100 + str(number)).inc()
registry = CollectorRegistry()
collected = list(MultiProcessCollector(registry, path=str(folder)).collect())
totals = [(sample.name, sample.value) for metric in collected for sample in metric.samples]
print(sum(value for name, value in totals if name == "c_total"), dict(totals)["h_count"])
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def counting(folder: Path, how: str) -> "subprocess.CompletedProcess[str]":
    """A process that counts many series while the disk is full, and all of them again when it is not."""
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    command = [sys.executable, "-c", COUNTS, str(folder), how]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_process_outlives_a_full_disk_and_counts_on(small_disk: Path) -> None:
    """Every series has its whole count in the shared files once there is room again: none is lost."""
    done = counting(small_disk, "reserved")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["lives", str(2.0 + 2 * 3000), "1.0"]


def test_without_reserved_space_it_does_not(small_disk: Path) -> None:
    """The bus error that this is against: as long as prometheus_client has it."""
    assert counting(small_disk, "as it comes").returncode < 0
