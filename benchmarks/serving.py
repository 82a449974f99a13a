"""What serving costs: ``python -m benchmarks.serving overhead | deployment [--json FILE]``.

``overhead`` compares one request over HTTP with the same engine called in this process, turn by turn.
``deployment`` starts a server as a user does and measures the memory of all its processes.
"""

import base64
import io
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import httpx2
import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console

from lego_serve.engine.offline import OfflinePipeline
from lego_serve.models.registry import ModelSpec

HERE = Path(__file__).parents[1]
SIZE, STEPS, GUIDANCE = 128, 20, 4.0
WARM_UPS = 3
BURST = 8
READY_S = 180.0
STOP_S = 60.0

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
console = Console()
Config = Annotated[Path, typer.Option(help="The server's configuration.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")]


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that is up: its address, its process, and the seconds from the command until it was ready."""

    url: str
    pid: int
    ready_s: float


def serve_command(checkout: Path) -> list[str]:
    """Return the command of a checkout's ``lego-serve``, by the entry point that its project names.

    ``-P``: what is imported is the checkout's, not the working folder's.
    """
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["lego-serve"].partition(":")
    return [sys.executable, "-P", "-c", f"from {module} import {function}; {function}()"]


@contextmanager
def running_server(config: Path, checkout: Path = HERE) -> Iterator[RunningServer]:
    """Run a checkout's ``lego-serve serve`` on a free port for a ``with`` block; ``config`` is of the same checkout.

    Raises RuntimeError if it does not get ready.
    """
    command = [*serve_command(checkout), "serve", str(checkout / config), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, cwd=checkout, env=environment
        )
        try:
            url = _wait_for_url(process, log)
            yield RunningServer(url, process.pid, time.monotonic() - started)
        except BaseException:
            console.print(_read_log(log), markup=False)
            raise
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_url(process: "subprocess.Popen[bytes]", log: IO[str]) -> str:
    """Return the address that the server prints once it is ready."""
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s and process.poll() is None:
        if match := re.search(r"(http://\S+?)/v1/", _read_log(log)):
            return match[1]
        time.sleep(0.05)
    raise RuntimeError("the server did not get ready")


def _read_log(log: IO[str]) -> str:
    """Return what the server has written; it shares the open file, whose position must not move."""
    return os.pread(log.fileno(), 2**20, 0).decode(errors="replace")


@app.command()
def overhead(
    config: Config = Path("configs/tiny.yaml"),
    weights: Annotated[str, typer.Option(help="The model the configuration serves.")] = "builtin:lego-tiny",
    pairs: Annotated[int, typer.Option(min=1, help="How many times each way is timed.")] = 30,
    to: Json = None,
) -> None:
    """Time one warm 128 x 128 request over HTTP and in-process, in turn; the difference is the cost of serving."""
    torch.set_num_threads(1)
    local = OfflinePipeline.load(ModelSpec("lego-tiny", weights, max_sequence_length=0))
    http_s: list[float] = []
    local_s: list[float] = []
    max_difference = 0
    with running_server(config) as server, httpx2.Client(base_url=server.url, timeout=READY_S) as http:
        for number, (prompt, negative) in enumerate(itertools.islice(_prompts(), pairs + WARM_UPS)):
            started = time.perf_counter()
            response = _request_image(http, prompt, negative, seed=number)
            received = time.perf_counter()
            image = _generate_locally(local, prompt, negative, seed=number)
            ended = time.perf_counter()
            max_difference = max(max_difference, int(np.abs(_pixels(response) - image).max()))
            if number >= WARM_UPS:
                http_s.append(received - started)
                local_s.append(ended - received)
    extra_ms = [(over_http - in_process) * 1000 for over_http, in_process in zip(http_s, local_s, strict=True)]
    _report(
        {
            "pairs": pairs,
            "http_median_s": round(statistics.median(http_s), 4),
            "in_process_median_s": round(statistics.median(local_s), 4),
            "overhead_median_ms": round(statistics.median(extra_ms), 1),
            "overhead_quartiles_ms": [round(q, 1) for q in statistics.quantiles(extra_ms, n=4)],
            "images_max_difference_255": max_difference,
            "load_1min": round(os.getloadavg()[0], 2),
        },
        to,
    )


@app.command()
def deployment(config: Config = Path("configs/tiny.yaml"), to: Json = None) -> None:
    """Time a server's start, and measure the memory of all its processes, idle and after a burst of requests."""
    with running_server(config) as server, httpx2.Client(base_url=server.url, timeout=READY_S) as http:
        idle = memory_bytes(server.pid)
        with ThreadPoolExecutor(BURST) as pool:
            prompts = itertools.islice(_prompts(), BURST)
            list(pool.map(lambda pair: _request_image(http, pair[0], pair[1], seed=0), prompts))
        after = memory_bytes(server.pid)
        _report(
            {
                "ready_s": round(server.ready_s, 1),
                "processes": len(after),
                "idle_gib": round(sum(idle.values()) / 2**30, 2),
                "after_burst_gib": round(sum(after.values()) / 2**30, 2),
                "largest_mib": [
                    {"process": _title(pid), "mib": round(after[pid] / 2**20)}
                    for pid in sorted(after, key=lambda pid: -after[pid])[:12]
                ],
            },
            to,
        )


def memory_bytes(root: int) -> dict[int, int]:
    """Return the proportional set size of a process and of each of its descendants, by process id."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended meanwhile
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    tree = [root]
    for pid in tree:
        tree.extend(children.get(pid, ()))
    sizes: dict[int, int] = {}
    for pid in tree:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        if match := re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE):
            sizes[pid] = int(match[1]) * 1024
    return sizes


def _title(pid: int) -> str:
    """Return a process's command, short enough for a table."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
    names = [Path(word).name for word in words if not word.startswith("-")][:3]
    return " ".join(names)[:60]


def _prompts() -> Iterator[tuple[str, str]]:
    """Yield pairs of a prompt and a negative prompt that never repeat, so that no cache shortens the work."""
    colours, places = ("red", "green", "blue", "yellow", "purple", "orange"), ("left", "right", "top", "bottom")
    for size, place, colour, ground in itertools.product(("small", "large"), places, colours, colours):
        yield f"a {size} {colour} circle on the {place}, {ground} background", f"{size} {ground} {colour} {place}"


def _request_image(http: httpx2.Client, prompt: str, negative: str, seed: int) -> dict[str, Any]:
    body = {"prompt": prompt, "negative_prompt": negative, "size": f"{SIZE}x{SIZE}", "seed": seed}
    body |= {"model": "lego-tiny", "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    response = http.post("/v1/images/generations", json=body)
    if response.status_code != httpx2.codes.OK:
        raise RuntimeError(f"the server answered {response.status_code}: {response.text[:300]}")
    content: dict[str, Any] = response.json()
    return content


def _generate_locally(local: OfflinePipeline, prompt: str, negative: str, seed: int) -> "np.ndarray[Any, Any]":
    images = local.generate(
        [prompt], width=SIZE, height=SIZE, steps=STEPS, guidance=GUIDANCE, seeds=[seed], negative=negative
    )
    return images[0].numpy().astype(np.int16)  # (height, width, 3)


def _pixels(response: dict[str, Any]) -> "np.ndarray[Any, Any]":
    with Image.open(io.BytesIO(base64.b64decode(response["data"][0]["b64_json"]))) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def _report(numbers: dict[str, Any], to: Path | None) -> None:
    console.print_json(json.dumps(numbers))
    if to is not None:
        to.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    app()
