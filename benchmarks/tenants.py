"""What one tenant feels of another: ``python -m benchmarks.tenants [--checkout DIR] [--seconds N] [--json FILE]``.

Starts a server with two tenants' keys as a user does.  Beta has one client and sends one request after the other:
alone, beside many clients of alpha, and beside one large job of alpha.
"""

import itertools
import json
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer
from rich.console import Console

from benchmarks.serving import HERE, running_server

TIMEOUT_S = 300.0
WARM_UPS = 3
BETAS = {"size": "128x128", "num_inference_steps": 20, "guidance_scale": 4.0}
SMALL = {"size": "96x96", "num_inference_steps": 2, "guidance_scale": 4.0}
LARGE = {"size": "256x256", "num_inference_steps": 100, "n": 8, "guidance_scale": 4.0}
CONFIG = """\
server: {{host: 127.0.0.1, port: 0, data: {data}}}
models:
  lego-tiny:
    path: builtin:lego-tiny
    max_sequence_length: 0
    nodes:
      text_encoder: {{cpus: 0.1}}
      backbone: {{cpus: 0.4}}
      vae: {{cpus: 0.1}}
workflows: [lego-tiny]
keys:
  - {{sha256: "{alpha}", tenant: alpha}}
  - {{sha256: "{beta}", tenant: beta}}
"""

console = Console()


@dataclass
class Tally:
    """What the clients of one tenant saw: the seconds of each request that was answered, and how many were not."""

    seconds: list[float] = field(default_factory=list)
    refused: int = 0

    def summary(self) -> dict[str, float | int]:
        """Return the numbers of the table."""
        ordered = sorted(self.seconds)
        return {
            "requests": len(ordered),
            "refused": self.refused,
            "p50_s": round(quantile(ordered, 0.5), 3),
            "p99_s": round(quantile(ordered, 0.99), 3),
        }


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """Return the smallest value that so many are not above; nan of none."""
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else float("nan")


def send_in_turn(url: str, key: str, body: Mapping[str, Any], tally: Tally, until: threading.Event) -> None:
    """Send one request after the other until told to stop; one that is refused is sent again after a while."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=TIMEOUT_S) as http:
        while not until.is_set():
            prompt = f"a red circle {secrets.token_hex(4)}"  # no cache shortens the work
            started = time.monotonic()
            response = http.post("/v1/images/generations", json={"prompt": prompt, **body})
            if response.status_code == httpx2.codes.OK:
                tally.seconds.append(time.monotonic() - started)
            else:
                tally.refused += 1
                until.wait(min(5.0, float(response.headers.get("retry-after", 1))))


@contextmanager
def clients(url: str, key: str, body: Mapping[str, Any], count: int) -> Iterator[Tally]:
    """Keep so many clients of a tenant busy for a ``with`` block."""
    tally, until = Tally(), threading.Event()
    threads = [
        threading.Thread(target=send_in_turn, args=(url, key, body, tally, until), daemon=True) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        until.set()


def betas(url: str, key: str, body: Mapping[str, Any], seconds: float) -> dict[str, float | int]:
    """Return what one client of beta sees in so many seconds."""
    with clients(url, key, body, 1) as tally:
        ends_s = time.monotonic() + seconds
        while time.monotonic() < ends_s or len(tally.seconds) + tally.refused == 0:
            time.sleep(0.05)
        return Tally(list(tally.seconds), tally.refused).summary()


def measure(checkout: Path, alphas: int, seconds: float) -> dict[str, Any]:
    """Measure a checkout's server."""
    keys = {tenant: secrets.token_hex(8) for tenant in ("alpha", "beta")}
    digests = {tenant: sha256(key.encode()).hexdigest() for tenant, key in keys.items()}
    found: dict[str, Any] = {"load_1min_before": round(os.getloadavg()[0], 2)}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "tenants.yaml"
        config.write_text(CONFIG.format(data=folder, **digests))
        with running_server(config, checkout) as server:
            for body in itertools.repeat(BETAS, WARM_UPS):
                httpx2.post(
                    f"{server.url}/v1/images/generations",
                    json={"prompt": "a", **body},
                    headers={"authorization": f"Bearer {keys['beta']}"},
                    timeout=TIMEOUT_S,
                )
            found["beta_alone"] = betas(server.url, keys["beta"], BETAS, seconds)
            found["beta_small_alone"] = betas(server.url, keys["beta"], SMALL, seconds)
            with clients(server.url, keys["alpha"], BETAS, alphas) as crowd:
                time.sleep(5.0)  # until all of them have begun
                before = len(crowd.seconds)
                found["beta_beside_crowd"] = betas(server.url, keys["beta"], BETAS, seconds)
                found["alpha_images_per_s"] = round((len(crowd.seconds) - before) / seconds, 2)
            time.sleep(max(crowd.seconds, default=0) + 1)  # until the last of them have ended
            with clients(server.url, keys["alpha"], LARGE, 1):
                time.sleep(2.0)
                found["beta_small_beside_large_job"] = betas(server.url, keys["beta"], SMALL, seconds)
    found["crowd_ratio_p99"] = round(found["beta_beside_crowd"]["p99_s"] / found["beta_alone"]["p99_s"], 1)
    small = found["beta_small_beside_large_job"]["p99_s"] / found["beta_small_alone"]["p99_s"]
    found["large_job_ratio_p99"] = round(small, 1)
    return found


def main(
    checkout: Annotated[Path, typer.Option(help="The checkout whose server is measured.")] = HERE,
    alphas: Annotated[int, typer.Option(min=1, help="Clients of alpha.")] = 40,
    seconds: Annotated[float, typer.Option(min=1, help="How long beta sends in each part.")] = 25.0,
    to: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Measure what one tenant feels of another."""
    found = measure(checkout, alphas, seconds)
    console.print_json(json.dumps(found))
    if to is not None:
        to.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
