import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import startup
from benchmarks.replica_start import start_replica


@pytest.mark.parametrize(
    ("command_line", "kind"),
    [
        ("ray::ServeReplica:lego-tiny.backbone:backbone.run", "replica: backbone"),
        ("ray::ServeReplica:lego-tiny.text_encoder:text_encoder", "replica: text_encoder"),
        ("ray::ServeController", "Serve controller"),
        ("ray::IDLE", "Ray worker"),
        ("python -I -S process/fork_server.py run x.sock workers/default_worker.py --node", "launcher of a replica"),
        ("python -m lego_serve.process.fork_server serve x.sock module", "fork server"),
        ("ray/core/src/ray/raylet/raylet --python_worker_command=default_worker.py", "raylet"),
        ("sleep 5", "other"),
    ],
)
def test_processes_are_told_apart_by_their_command_lines(command_line: str, kind: str) -> None:
    """Replicas by their component."""
    assert startup.process_kind(command_line) == kind


def test_processor_seconds_of_a_tree() -> None:
    """A process is there with what it started; one that is gone is not."""
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        seconds = startup.processor_seconds(os.getpid())
        child.communicate(b"\n")
    assert seconds[child.pid] >= 0.25
    assert os.getpid() in seconds
    assert startup.processor_seconds(child.pid) == {}


def test_tables_hold_medians() -> None:
    """Over the starts, also for a kind of process that some of them lack; what is shared is in no replica's sum."""
    starts = [
        {"ready_s": ready, "processor_s": 2 * ready, "processes": {"gateway": {"count": 1, "processor_s": ready}}}
        for ready in (10.0, 30.0, 11.0)
    ]
    starts[1]["processes"] = {}
    stages = dict.fromkeys(startup.STAGES, 1.0) | {"shared": 5.0}
    console = Console(file=StringIO(), width=200)
    console.print(startup.start_table(starts), startup.replica_table({"vae": stages}, "title"))
    assert isinstance(console.file, StringIO)
    rows = [[word for word in line.split() if word.isascii()] for line in console.file.getvalue().splitlines()]
    assert ["gateway", "1", "10.0"] in rows
    assert ["all", "22.0"] in rows
    assert ["vae", "1.00", "5.00", *["1.00"] * 5, "6.0"] in rows


def test_a_replica_is_started_in_stages() -> None:
    """With the plan that a server would hand to it; seconds, for a replica's libraries are imported."""
    stages = start_replica(Path("configs/tiny.yaml"), "vae", shared=None)
    assert tuple(stages) == startup.STAGES
    assert stages["component"] > 0
    assert stages["node"] > 0
