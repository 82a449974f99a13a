"""What starting a server costs: ``python -m benchmarks.startup [--runs N] [--json FILE]``.

Starts ``lego-serve serve`` as a user does and reports the seconds until it is ready and the processor seconds that
each of its processes had used by then.  Two more tables say where a replica's go: ``benchmarks.replica_start`` does a
replica's work in a process of its own, as if started alone, and as if forked from one with the libraries (``shared``).
"""

import json
import os
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.replica_start import STAGES
from benchmarks.serving import HERE, running_server
from lego_serve.process.threads import THREAD_ENVIRONMENT
from lego_serve.supervision.cluster_process import PRELOADED

COMPONENTS = ("text_encoder", "backbone", "vae", "adapters")
KINDS = (  # what a command line contains, and what its process is called; the first that fits
    ("ray::ServeController", "Serve controller"),
    ("ray::", "Ray worker"),
    ("fork_server serve", "fork server"),
    ("fork_server.py run", "launcher of a replica"),
    ("lego_serve.gateway_process", "gateway"),
    ("gcs_server", "GCS"),
    ("raylet/raylet", "raylet"),
    ("runtime_env/agent", "Ray agent"),
    ("default_worker.py", "Ray worker"),
    ("ray/dashboard/", "Ray dashboard"),
    ("monitor.py", "Ray monitor"),
)

console = Console()


def process_kind(command_line: str) -> str:
    """What a process of a server is called in the table: a replica by its component, others by their job."""
    _, is_replica, name = command_line.partition("ray::ServeReplica:")
    if is_replica:
        return f"replica: {name.split(':')[1].split('.')[0].strip()}"
    return next((kind for part, kind in KINDS if part in command_line), "other")


def processor_seconds(root: int) -> dict[int, float]:
    """The processor seconds of a process and of each descendant, each with its children that have ended, by id."""
    stats: dict[int, list[str]] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        stats[int(stat.parent.name)] = fields
        children[int(fields[1])].append(int(stat.parent.name))
    tree = [root] if root in stats else []
    for pid in tree:
        tree.extend(children[pid])
    ticks = os.sysconf("SC_CLK_TCK")
    return {pid: sum(int(used) for used in stats[pid][11:15]) / ticks for pid in tree}


def measure_start(config: Path, checkout: Path = HERE) -> dict[str, Any]:
    """Start a checkout's server once: seconds to ready, and what its processes of each kind are and used."""
    load = os.getloadavg()[0]
    with running_server(config, checkout) as server:
        seconds = processor_seconds(server.pid)
        kinds = {pid: "supervisor" if pid == server.pid else process_kind(_command_line(pid)) for pid in seconds}
    processes = {
        kind: {
            "count": count,
            "processor_s": round(sum(used for pid, used in seconds.items() if kinds[pid] == kind), 2),
        }
        for kind, count in sorted(Counter(kinds.values()).items())
    }
    return {
        "ready_s": round(server.ready_s, 1),
        "load_before": round(load, 1),
        "processor_s": round(sum(seconds.values()), 1),
        "processes": processes,
    }


def measure_replica(config: Path, component: str, shared: str | None) -> dict[str, float]:
    """The processor seconds of each stage of a replica's start, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.replica_start", str(config), component, *([shared] if shared else [])]
    environment = os.environ | THREAD_ENVIRONMENT
    ran = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    stages: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return {stage: round(seconds, 2) for stage, seconds in stages.items()}


def start_table(starts: Sequence[Mapping[str, Any]], name: str = "This version") -> Table:
    """One row for each kind of process: the median over the starts."""
    ready = statistics.median(start["ready_s"] for start in starts)
    title = f"{name}: ready in {ready:.1f} s (median of {len(starts)})"
    table = Table("process", "count", "processor seconds", title=title)
    kinds = sorted({kind for start in starts for kind in start["processes"]})
    for kind in kinds:
        there = [start["processes"].get(kind, {"count": 0, "processor_s": 0.0}) for start in starts]
        count, used = (statistics.median(one[key] for one in there) for key in ("count", "processor_s"))
        table.add_row(kind, f"{count:g}", f"{used:.1f}")
    table.add_row("all", "", f"{statistics.median(start['processor_s'] for start in starts):.1f}")
    return table


def replica_table(replicas: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """One row for each component, one column for each stage, in processor seconds."""
    table = Table("replica", *STAGES, "all but shared", title=title)
    for component, used in replicas.items():
        own = sum(seconds for stage, seconds in used.items() if stage != "shared")
        table.add_row(component, *(f"{seconds:.2f}" for seconds in used.values()), f"{own:.1f}")
    return table


def main(
    config: Annotated[Path, typer.Option(help="The server's configuration.")] = Path("configs/tiny.yaml"),
    runs: Annotated[int, typer.Option(min=1, help="How many times the server is started.")] = 3,
    beside: Annotated[Path | None, typer.Option(help="Also start another checkout's server, in turn.")] = None,
    to: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Start the server some times, then each replica's work in a process of its own, and print the tables."""
    checkouts = {"This version": HERE} | ({} if beside is None else {str(beside): beside.resolve()})
    starts: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    for _ in range(runs):
        for name, checkout in checkouts.items():
            starts[name].append(measure_start(config, checkout))
    for name, measured in starts.items():
        console.print(start_table(measured, name))
        console.print("load before each start:", ", ".join(f"{start['load_before']:g}" for start in measured))
    replicas = {}
    for title, shared in (("A replica started alone", None), ("A replica forked", PRELOADED)):
        replicas[title] = {component: measure_replica(config, component, shared) for component in COMPONENTS}
        console.print(replica_table(replicas[title], f"{title}: processor seconds"))
    if to is not None:
        to.write_text(json.dumps({"starts": starts, "replicas": replicas}, indent=2) + "\n")


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    typer.run(main)
