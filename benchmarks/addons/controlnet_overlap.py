"""When two remote ControlNets of one request run: ``python -m benchmarks.addons.controlnet_overlap``.

A server with both, each in a deployment of its own, is started as a user starts it; the response to one request says
for every step when each of them ran.
"""

import base64
import io
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer
from PIL import Image, ImageDraw
from rich.console import Console

from benchmarks.serving import READY_S, running_server

NETS = ("first", "second")
CONFIG = """
server: {host: 127.0.0.1, port: 8000, gateways: 1}
models:
  lego-tiny:
    path: builtin:lego-tiny
    max_sequence_length: 0
    nodes: {text_encoder: {cpus: 0.1}, backbone: {cpus: 0.5}, vae: {cpus: 0.1}}
    controlnets:
      first: {path: "builtin:lego-tiny-outline", placement: remote}
      second: {path: "builtin:lego-tiny-outline", placement: remote}
"""
console = Console(width=120)
Pass = Sequence[float]  # beginning and end, in seconds of the wall clock


@dataclass(frozen=True, slots=True)
class Row:
    """One step: when each ControlNet ran, in ms since the request's first pass began, and for how long both did."""

    step: int
    first: tuple[float, float]
    second: tuple[float, float]
    together_ms: float

    @property
    def share(self) -> float:
        """The part of the shorter pass during which the other ran too."""
        return self.together_ms / min(end - begin for begin, end in (self.first, self.second))


def rows_of(first: Sequence[Pass], second: Sequence[Pass]) -> list[Row]:
    """Return the steps of a request, from the passes of its two ControlNets."""
    start = min(first[0][0], second[0][0])
    rows = []
    for step, passes in enumerate(zip(first, second, strict=True)):
        first_ms, second_ms = (((begin - start) * 1000, (end - start) * 1000) for begin, end in passes)
        together_ms = max(0.0, min(first_ms[1], second_ms[1]) - max(first_ms[0], second_ms[0]))
        rows.append(Row(step, first_ms, second_ms, together_ms))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a table, with the median share below."""
    lines = ["| step | first, ms | second, ms | both at once, ms | of the shorter |", "|---|---|---|---|---|"]
    for row in rows:
        spans = [f"{begin:.1f} to {end:.1f}" for begin, end in (row.first, row.second)]
        lines.append(f"| {row.step} | {spans[0]} | {spans[1]} | {row.together_ms:.1f} | {row.share:.0%} |")
    shares = sorted(row.share for row in rows)
    median = statistics.median(shares)
    lines += ["", f"Both at once for {median:.0%} of the shorter pass (median; least {shares[0]:.0%})."]
    return "\n".join(lines)


def outline(side: int) -> str:
    """Return a control image, the outline of a circle, as base64."""
    image = Image.new("RGB", (side, side))
    inner = (round(0.36 * side), round(0.36 * side), round(0.64 * side), round(0.64 * side))
    ImageDraw.Draw(image).ellipse(inner, outline="white", width=3)
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def trace(url: str, steps: int, side: int) -> list[Row]:
    """Return the trace of a warm request."""
    image = outline(side)
    body: dict[str, Any] = {
        "prompt": "a large red circle in the centre, blue background",
        "model": "lego-tiny",
        "size": f"{side}x{side}",
        "num_inference_steps": steps,
        "seed": 1,
        "controlnet": [{"name": name, "image": image, "weight": 0.5} for name in NETS],
    }
    for _ in range(3):  # the last one counts
        response = httpx2.post(f"{url}/v1/images/generations", json=body, timeout=READY_S)
        if response.status_code != httpx2.codes.OK:
            raise RuntimeError(f"the server answered {response.status_code}: {response.text[:300]}")
    passes = {net["name"]: net["ran"] for net in response.json()["lego"]["controlnets"]}
    return rows_of(passes["first"], passes["second"])


def main(
    steps: Annotated[int, typer.Option(min=1, max=100)] = 12,
    side: Annotated[int, typer.Option(min=96, help="Width and height.")] = 256,
    to: Annotated[Path | None, typer.Option("--json", help="Also write the rows to this file.")] = None,
) -> None:
    """Trace one request with two remote ControlNets."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(CONFIG)
        with running_server(config) as server:
            rows = trace(server.url, steps, side)
    console.print(markdown(rows), highlight=False, soft_wrap=True, markup=False)
    if to is not None:
        to.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
