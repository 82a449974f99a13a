"""Runs suite ``mixed`` and writes its files."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from loadgen.machine import CORES, describe_run, pin
from loadgen.mixed.objective import Timed
from loadgen.mixed.plan import MixedSuite
from loadgen.mixed.report import write_report
from loadgen.mixed.rounds import measure
from loadgen.mixed.sides import Bench, MixedSides, Server, Storage, Tell
from loadgen.mixed.summarise import summarise
from loadgen.mixed.workload import Dealer, Workload

SEED = 0


def compare_mixed(
    suite: MixedSuite,
    sides: MixedSides,
    out: Path,
    *,
    quick: bool,
    tell: Tell,
    workload: Dealer | None = None,
    storage: Storage | None = None,
    inspect: Callable[[Server, Timed], Mapping[str, object]] | None = None,
    about: Callable[[], Mapping[str, object]] = dict,
) -> dict[str, object]:
    """Run the suite and write ``summary.json`` and ``report.html`` into ``out``; returns the summary.

    Suites of other requests bring a workload, what it is loaded from, a look at lego's pictures, and words on both.
    """
    context = describe_run(pin(CORES), quick=quick)
    out.mkdir(parents=True, exist_ok=True)
    effort = suite.quick if quick else suite.full
    begun = time.monotonic()

    def timed(line: str) -> None:
        tell(f"[{time.monotonic() - begun:5.0f} s] {line}")

    dealer = Workload(suite, SEED) if workload is None else workload
    seen = measure(Bench(suite, effort, dealer, sides, timed, time.monotonic, begun, storage, inspect))
    found = summarise(suite, effort, SEED, seen, {**context, "suite": dict(about())})
    (out / "summary.json").write_text(json.dumps(found, indent=2) + "\n")
    write_report(out / "report.html", suite, seen, found)
    return found
