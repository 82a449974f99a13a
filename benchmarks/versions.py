"""Compares another checkout of this repository with this one: ``python -m benchmarks.versions CHECKOUT [--json FILE]``.

Both servers are up at the same time and idle but for the one that is asked.  Each round asks both, in turn, for one
image, for a burst of eight, and for a burst of eight with adapters and ControlNets; the rounds' ratios count.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import httpx2
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.serving import BURST, HERE, READY_S, running_server
from loadgen.addons.request import AddonsRequest

MODEL, CONTROLNET = "lego-tiny", "lego-tiny-outline"
ADAPTERS = sorted(folder.name for folder in (HERE / "lego_serve/zoo/weights/adapters").iterdir())
SIZE, STEPS, GUIDANCE = 128, 20, 4.0
Seconds = Mapping[str, Sequence[float]]
app = typer.Typer(help=__doc__, add_completion=False)
console = Console()


def request_of(number: int, *, has_addons: bool) -> AddonsRequest:
    """Return a request that differs from all others; every other one with add-ons has a ControlNet too."""
    return AddonsRequest(
        width=SIZE, height=SIZE, prompt=f"a red circle on the left, number {number}", steps=STEPS,
        guidance=GUIDANCE, seed=number, adapters=(ADAPTERS[number % len(ADAPTERS)],) if has_addons else (),
        controlnets=((CONTROLNET, number % 8),) if has_addons and number % 2 else (),
    )  # fmt: skip


WORKLOADS: Mapping[str, Callable[[int], list[AddonsRequest]]] = {
    "one image": lambda first: [request_of(first, has_addons=False)],
    f"{BURST} at once": lambda first: [request_of(first + i, has_addons=False) for i in range(BURST)],
    f"{BURST} at once with add-ons": lambda first: [request_of(first + i, has_addons=True) for i in range(BURST)],
}


def ask(http: httpx2.Client, request: AddonsRequest) -> None:
    """Wait for an image.  Raises RuntimeError if there is none."""
    answer = http.post("/v1/images/generations", json=request.body(MODEL))
    if answer.status_code != httpx2.codes.OK:
        raise RuntimeError(f"{http.base_url} answered {answer.status_code}: {answer.text[:300]}")


def measure(clients: Sequence[httpx2.Client], rounds: int, warm_ups: int) -> list[dict[str, list[float]]]:
    """Return the seconds of each workload and round, for each client; who is first changes from round to round."""
    seconds: list[dict[str, list[float]]] = [{name: [] for name in WORKLOADS} for _ in clients]
    with ThreadPoolExecutor(BURST) as pool:
        for number in range(rounds + warm_ups):
            turns = list(enumerate(clients))
            for name, make in WORKLOADS.items():
                for index, http in turns if number % 2 else reversed(turns):
                    started = time.perf_counter()
                    list(pool.map(lambda request, http=http: ask(http, request), make(number * BURST)))
                    if number >= warm_ups:
                        seconds[index][name].append(time.perf_counter() - started)
    return seconds


def ratio_table(other: Seconds, this: Seconds) -> Table:
    """Return a row per workload: both medians, and the median and quartiles of the rounds' ratios."""
    table = Table("workload", "other, s", "this, s", "this / other", "quartiles")
    for name in WORKLOADS:
        ratios = [mine / theirs for mine, theirs in zip(this[name], other[name], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        medians = (f"{statistics.median(side[name]):.3f}" for side in (other, this))
        table.add_row(name, *medians, f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    return table


@app.command()
def main(
    checkout: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The other version's checkout.")],
    rounds: Annotated[int, typer.Option(min=2, help="Rounds that count.")] = 20,
    warm_ups: Annotated[int, typer.Option(min=1, help="Rounds before.")] = 4,
    to: Annotated[Path | None, typer.Option("--json", help="Also write the seconds to this file.")] = None,
) -> None:
    """Start both versions, one after the other, and measure them in turn."""
    config = Path("configs/tiny.yaml")
    with (
        running_server(config, checkout.resolve()) as other,
        running_server(config) as this,
        httpx2.Client(base_url=other.url, timeout=READY_S) as other_http,
        httpx2.Client(base_url=this.url, timeout=READY_S) as this_http,
    ):
        seconds = measure((other_http, this_http), rounds, warm_ups)
    console.print(ratio_table(*seconds))
    load = os.getloadavg()[0]
    console.print(f"ready in {other.ready_s:.1f} s and {this.ready_s:.1f} s; {rounds} rounds, load {load:.1f}")
    if to is not None:
        to.write_text(json.dumps({"other": seconds[0], "this": seconds[1], "load_1min": load}))


if __name__ == "__main__":
    app()
