"""One image alone on two replicas and on one: ``python -m benchmarks.split_guidance [--pairs N] [--json FILE]``.

It starts a server that has the same weights twice, once with ``split_guidance``, and asks for the same images in turn.
"""

import base64
import json
import os
import statistics
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import httpx2
import numpy as np
import typer
from rich.console import Console

from benchmarks.serving import running_server
from loadgen.machine import describe_machine
from loadgen.runs.bootstrap import block_indices, interval

SIZE, STEPS, GUIDANCE = "256x256", 28, 4.0
WARM_UPS = 3
REPLICATES = 1000
TIMEOUT_S = 120.0
CONFIG = """\
server: {{host: 127.0.0.1, port: 0, data: {folder}}}
models:
  split: {{path: "builtin:lego-tiny", max_sequence_length: 0, nodes: {{text_encoder: {{cpus: 0.1}}, vae: {{cpus: 0.1}},
    backbone: {{replicas: {{min: 2, max: 2}}, cpus: 0.2, split_guidance: true}}}}}}
  whole: {{path: "builtin:lego-tiny", max_sequence_length: 0, nodes: {{text_encoder: {{cpus: 0.1}}, vae: {{cpus: 0.1}},
    backbone: {{replicas: {{min: 2, max: 2}}, cpus: 0.2}}}}}}
workflows: [split.yaml, whole.yaml]
"""

console = Console()


def ask(http: httpx2.Client, model: str, seed: int) -> tuple[float, bytes, int]:
    """Return the seconds of one request, its image, and the steps that were taken on two replicas."""
    body = {"model": model, "prompt": "a large red circle on the left, blue background", "seed": seed, "size": SIZE}
    started = time.perf_counter()
    answer = http.post("/v1/images/generations", json=body | {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE})
    took_s = time.perf_counter() - started
    answer.raise_for_status()
    content = answer.json()
    return took_s, base64.b64decode(content["data"][0]["b64_json"]), content["lego"].get("steps_split", 0)


def ratio_interval(split_s: list[float], whole_s: list[float]) -> tuple[float, float]:
    """Return the bounds of the ratio of the medians, by resampling pairs."""
    rng = np.random.default_rng(0)
    split, whole = np.asarray(split_s), np.asarray(whole_s)
    chosen = [block_indices(len(split), rng) for _ in range(REPLICATES)]
    return interval(np.asarray([np.median(split[each]) / np.median(whole[each]) for each in chosen]))


def measure(pairs: int) -> dict[str, Any]:
    """Ask for so many images of each in turn; raise RuntimeError where two replicas make another image than one."""
    seconds: dict[str, list[float]] = {"whole": [], "split": []}
    steps_split = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = (resources.files("lego_serve") / "workflows" / "lego-tiny.yaml").read_text()
        for model in seconds:
            (folder / f"{model}.yaml").write_text(own.replace("lego-tiny", model))
        config = folder / "split.config.yaml"
        config.write_text(CONFIG.format(folder=folder / "data"))
        with running_server(config) as server, httpx2.Client(base_url=server.url, timeout=TIMEOUT_S) as http:
            for number in range(WARM_UPS + pairs):
                images = {}
                for model in ("whole", "split") if number % 2 else ("split", "whole"):
                    took_s, images[model], steps = ask(http, model, number)
                    if number >= WARM_UPS:
                        seconds[model].append(took_s)
                        steps_split += steps
                if images["whole"] != images["split"]:
                    raise RuntimeError(f"seed {number}: two replicas made another image than one")
    low, high = ratio_interval(seconds["split"], seconds["whole"])
    medians = {model: statistics.median(each) for model, each in seconds.items()}
    return {
        "pairs": pairs,
        "whole_p50_s": round(medians["whole"], 3),
        "split_p50_s": round(medians["split"], 3),
        "ratio": round(medians["split"] / medians["whole"], 3),
        "ratio_95": [round(low, 3), round(high, 3)],
        "steps_split": round(steps_split / (pairs * STEPS), 3),
    }


def main(
    pairs: Annotated[int, typer.Option(min=2, help="Images of each.")] = 20,
    to: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Time one 256 x 256 image alone on two replicas and on one, in turn."""
    machine = describe_machine()
    found = measure(pairs) | {"machine": machine, "load_1min_after": round(os.getloadavg()[0], 2)}
    console.print_json(json.dumps(found))
    if to is not None:
        to.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
