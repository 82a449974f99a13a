"""Runs suite ``mixed`` and writes its files."""

import json
import time
from pathlib import Path

from loadgen.machine import CORES, describe_run, pin
from loadgen.mixed.extras import Extras
from loadgen.mixed.plan import MixedSuite
from loadgen.mixed.report import write_report
from loadgen.mixed.rounds import measure
from loadgen.mixed.sides import Bench, MixedSides, Tell
from loadgen.mixed.summarise import summarise
from loadgen.mixed.workload import Workload

SEED = 0


def compare_mixed(
    suite: MixedSuite, sides: MixedSides, out: Path, *, quick: bool, tell: Tell, extras: Extras | None = None
) -> dict[str, object]:
    """Run the suite and write ``summary.json`` and ``report.html`` into ``out``; returns the summary."""
    context = describe_run(pin(CORES), quick=quick)
    out.mkdir(parents=True, exist_ok=True)
    effort = suite.quick if quick else suite.full
    begun = time.monotonic()

    def timed(line: str) -> None:
        tell(f"[{time.monotonic() - begun:5.0f} s] {line}")

    more = extras or Extras(Workload(suite, SEED))
    seen = measure(
        Bench(
            suite, effort, more.workload, sides, timed, time.monotonic, begun, more.storage, more.inspect, more.variants
        )
    )
    view = more.view(seen, out)
    found = summarise(suite, effort, SEED, seen, context, view)
    (out / "summary.json").write_text(json.dumps(found, indent=2) + "\n")
    write_report(out / "report.html", suite, seen, found, view.grids)
    return found
