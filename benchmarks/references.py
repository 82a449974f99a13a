"""What it costs to hand arrays from node to node, by value or by reference: ``python -m benchmarks.references``.

A caller asks one Ray Serve deployment for an embedding and gives it to another, as a coordinator does for a prompt.
By value the array comes to the caller and goes on from there; by reference it stays in the object store.  The first
table finds the size from which references are quicker, the second tells the bytes that pass the caller for one
request with two embeddings of SD3.5's size (333 tokens of 4096 numbers, and 2048 pooled, in fp32).
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import ray
import typer
from ray import serve
from rich.console import Console
from rich.table import Table

from lego_serve.core.nodes.messages import TextEncodeOutput
from lego_serve.core.values import bytes_of
from lego_serve.serving.cluster.references import MIN_BYTES, keep_arrays, read_arrays

SIZES = (4, 16, 64, 256, 1024, 4096, 16384)  # KiB
TOKENS, WIDTH, POOLED = 333, 4096, 2048
app = typer.Typer(help=__doc__, add_completion=False)
console = Console()


class Encoder:
    """Answers with an embedding of a size, by reference if it is told to."""

    async def encode(self, tokens: int, width: int, by_reference: bool) -> TextEncodeOutput:
        """Make one."""
        made = TextEncodeOutput(np.ones((tokens, width), np.float32), np.ones(POOLED, np.float32))
        return await keep_arrays(made, 1) if by_reference else made


class Denoiser:
    """Reads what it is given."""

    async def read(self, conds: list[TextEncodeOutput]) -> float:
        """The sum of the first numbers, so that the arrays are read."""
        whole = [await read_arrays(cond) for cond in conds]
        return float(sum(np.asarray(cond.tokens).flat[0] for cond in whole))


@contextmanager
def deployments() -> Iterator[tuple[Any, Any]]:
    """Handles of both, in processes of their own under a private Ray."""
    with tempfile.TemporaryDirectory(prefix="lego-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local", _temp_dir=folder, num_cpus=2, include_dashboard=False, log_to_driver=False,
            logging_level="error", object_store_memory=256 * 2**20,
        )  # fmt: skip
        serve.start(proxy_location="Disabled", logging_config={"enable_access_log": False, "log_level": "WARNING"})
        try:
            yield (
                serve.run(serve.deployment(Encoder).bind(), name="encoder", route_prefix=None),
                serve.run(serve.deployment(Denoiser).bind(), name="denoiser", route_prefix=None),
            )
        finally:
            serve.shutdown()
            ray.shutdown()


async def request(handles: tuple[Any, Any], tokens: int, width: int, by_reference: bool) -> tuple[float, int]:
    """Both embeddings of a request, made and read; returns the seconds and the bytes of arrays that passed here."""
    encoder, denoiser = handles
    started = time.perf_counter()
    made = await asyncio.gather(*(encoder.encode.remote(tokens, width, by_reference) for _ in range(2)))
    await denoiser.read.remote(list(made))
    return time.perf_counter() - started, 2 * sum(map(bytes_of, made))  # here, and on from here


async def medians(handles: tuple[Any, Any], tokens: int, width: int, rounds: int) -> dict[bool, tuple[float, int]]:
    """The median seconds and the bytes, by value and by reference, taking turns."""
    seen: dict[bool, list[tuple[float, int]]] = {False: [], True: []}
    for number in range(rounds + 3):
        for by_reference in (False, True):
            outcome = await request(handles, tokens, width, by_reference)
            if number >= 3:  # the first ones find nothing warm
                seen[by_reference].append(outcome)
    return {kind: (median(s for s, _ in outcomes), outcomes[0][1]) for kind, outcomes in seen.items()}


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="Requests of each kind and size.")] = 60,
    to_json: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Measure both ways over sizes, and at SD3.5's."""
    with deployments() as handles:
        run: Callable[[int, int], dict[bool, tuple[float, int]]] = lambda tokens, width: asyncio.run(  # noqa: E731
            medians(handles, tokens, width, rounds)
        )
        rows = [(f"{size} KiB", run(1, size * 256)) for size in SIZES]
        rows.append(("SD3.5", run(TOKENS, WIDTH)))
    table = Table("tokens", "by value, ms", "by reference, ms", "ratio", "bytes past the caller", "by reference")
    for name, found in rows:
        (value_s, value_bytes), (ref_s, ref_bytes) = found[False], found[True]
        table.add_row(
            name, f"{1e3 * value_s:.2f}", f"{1e3 * ref_s:.2f}", f"{ref_s / value_s:.2f}", f"{value_bytes:,}",
            f"{ref_bytes:,}",
        )  # fmt: skip
    console.print(table)
    console.print(f"References are used from {MIN_BYTES:,} bytes on.")
    if to_json is not None:
        to_json.write_text(
            json.dumps(
                [{"tokens": name, "by_value": found[False], "by_reference": found[True]} for name, found in rows]
            )
        )


if __name__ == "__main__":
    app()
