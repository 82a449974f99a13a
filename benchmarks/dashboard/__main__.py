"""What the pages cost, beside their budgets: ``python -m benchmarks.dashboard [--quick] [--out PAGE]``.

Pages are opened in Chromium on gateways behind which nothing computes, so that only they are measured; with ``--url``
and ``--pid`` of the gateways of a server the cost of watching it is measured instead.
"""

import asyncio
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import httpx2
import typer
from rich.console import Console

from benchmarks.dashboard.browsing import chromium, frames_of, heap_of, load_of
from benchmarks.dashboard.gateways import Gateways, running
from benchmarks.dashboard.listening import cost, delays
from benchmarks.dashboard.site import HURRY
from benchmarks.hostile.__main__ import commit_of
from benchmarks.hostile.report import with_results
from benchmarks.serving import HERE

console = Console(width=200)
WORK: dict[str, object] = {"prompt": "a", "num_inference_steps": 20}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement beside its budget."""

    what: str
    measured: float
    budget: float
    unit: str
    digits: int = 0

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        is_met = "yes" if self.measured <= self.budget else "no"
        return self.what, f"{self.measured:,.{self.digits}f} {self.unit}", f"{self.budget:,g} {self.unit}", is_met


def pages() -> list[Figure]:
    """Return what the pages load, where a request has ended."""
    found = []
    with running("plain") as site, chromium() as browser:
        httpx2.post(f"{site.url}/v1/images/generations", json=WORK, timeout=60).raise_for_status()
        for path, ready, name, budget in (
            ("/dashboard", ".waterfall", "dashboard", 80),
            ("/", ".board", "playground", 50),
        ):
            loads = [load_of(browser, site.url + path, ready) for _ in range(3)]
            found.append(
                Figure(f"{name}: bytes on the wire", max(each.bytes for each in loads) / 1000, budget, "kB", 1)
            )
            found.append(Figure(f"{name}: requests", max(each.requests for each in loads), 14, ""))
            paint_s = sorted(each.paint_s for each in loads)[1]
            found.append(Figure(f"{name}: first paint, the middle of three", paint_s, 1, "s", 2))
    return found


def large(seconds: float) -> list[Figure]:
    """Return how the pages of a large cluster move: 200 models, 2,000 replicas, 1,000 requests, 20 patches a second."""
    found = []
    with running("large") as site, chromium() as browser:
        for path in ("/dashboard", "/dashboard/requests", "/dashboard/models"):
            p95, longest, own = frames_of(browser, site.url + path, seconds)
            found.append(Figure(f"`{path}`, large: 95 of 100 frames within", p95, 34, "ms"))
            found.append(Figure(f"`{path}`, large: longest task", longest, 100, "ms"))
            found.append(Figure(f"`{path}`, large: the longest a task computes", own, 100, "ms"))
    return found


def heap(seconds: float) -> list[Figure]:
    """Return by how much the heap of the overview grows in an hour of such patches, which come ten times as fast."""
    with running("hurried") as site, chromium() as browser:
        grown = heap_of(browser, site.url + "/dashboard", 3 * seconds)
    hour = grown * 3600 / (3 * seconds) / HURRY
    return [Figure("`/dashboard`, large: the heap grows in an hour by", hour / 1e6, 5, "MB", 1)]


def listeners(seconds: float) -> list[Figure]:
    """Return how late decisions come to 32 who listen, and what they cost."""
    with running("plain") as site:
        heard = asyncio.run(delays(site, 32, seconds))
    console.print(
        f"32 listeners: {len(heard.late_s)} decisions heard, half within {heard.p50 * 1000:.0f} ms", markup=False
    )
    with running("plain", 2) as site:
        both = asyncio.run(delays(site, 8, seconds))
    with running("many", 2) as site:
        idle = asyncio.run(cost(site, seconds))
        busy = asyncio.run(cost(site, seconds, body=WORK))
    return [
        Figure("a decision reaches 32 who listen: 99 of 100 within", heard.p99 * 1000, 250, "ms"),
        Figure("two gateways, 8 who listen: 99 of 100 within", both.p99 * 1000, 250, "ms"),
        Figure("watching 2 gateways and 13 replicas, of a core", idle * 100, 3, "%", 1),
        Figure("the same while requests run one after another", busy * 100, 3, "%", 1),
    ]


def watched(url: str, pids: tuple[int, ...], seconds: float) -> list[Figure]:
    """Return what watching a server costs its gateways."""
    there = Gateways(url, pids)
    idle = asyncio.run(cost(there, seconds))
    busy = asyncio.run(cost(there, seconds, body=WORK))
    return [
        Figure(f"watching {len(pids)} gateways of a server, of a core", idle * 100, 3, "%", 1),
        Figure("the same while it makes images", busy * 100, 3, "%", 1),
    ]


def table(figures: list[Figure]) -> str:
    """Return the figures as a table."""
    rows = [("measured", "", "budget", "met?"), ("---",) * 4, *(each.cells for each in figures)]
    return "\n".join(f"| {' | '.join(cell.strip() for cell in row)} |" for row in rows)


def main(
    quick: Annotated[bool, typer.Option(help="Measure each thing for 6 s rather than 20.")] = False,
    url: Annotated[str | None, typer.Option(help="Measure what watching this server costs.")] = None,
    pid: Annotated[list[int] | None, typer.Option(help="With --url: its gateways' processes.")] = None,
    part: Annotated[
        str, typer.Option(help="Only `pages`, `listeners`, `large` or `heap`; `listeners` needs no browser.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Write the table under Results of this page.")] = None,
) -> None:
    """Measure, and print the table."""
    seconds, load = 6.0 if quick else 20.0, os.getloadavg()[0]
    if url is not None:
        figures = watched(url, tuple(pid or ()), seconds)
    else:
        parts = {"pages": lambda _: pages(), "listeners": listeners, "large": large, "heap": heap}
        figures = [figure for name, measure in parts.items() if part in ("", name) for figure in measure(seconds)]
    date = datetime.now(UTC).date()
    loads = f"load {load:.1f} before and {os.getloadavg()[0]:.1f} after"
    where = f"{commit_of(HERE)}, {date}, {os.cpu_count()} cores, {loads}; {seconds:.0f} s for each."
    results = f"{where}\n\n{table(figures)}"
    console.print(results, markup=False)
    if out is not None:
        out.write_text(with_results(out.read_text(), results))


if __name__ == "__main__":
    typer.run(main)
