"""Runs suite ``mixed`` and its like, and writes their files."""

import json
import time
from pathlib import Path

from loadgen.machine import CORES, describe_run, pin
from loadgen.mixed.bench import Bench
from loadgen.mixed.hooks import SuiteHooks
from loadgen.mixed.plan import MixedSuite
from loadgen.mixed.report import write_report
from loadgen.mixed.rounds import measure
from loadgen.mixed.summarise import summarise
from loadgen.mixed.systems import MixedSystems
from loadgen.mixed.workload import Workload
from loadgen.progress import OnLine

SEED = 0


def compare_mixed(
    suite: MixedSuite,
    systems: MixedSystems,
    out: Path,
    *,
    quick: bool,
    on_line: OnLine,
    hooks: SuiteHooks | None = None,
) -> dict[str, object]:
    """Run the suite, write ``summary.json`` and ``report.html`` into ``out``, and return the summary."""
    context = describe_run(pin(CORES), quick=quick)
    out.mkdir(parents=True, exist_ok=True)
    effort = suite.quick if quick else suite.full
    hooks = hooks or SuiteHooks(Workload(suite, SEED))
    begun_s = time.monotonic()

    def on_timed_line(line: str) -> None:
        on_line(f"[{time.monotonic() - begun_s:5.0f} s] {line}")

    bench = Bench(
        suite=suite,
        effort=effort,
        workload=hooks.workload,
        systems=systems,
        on_line=on_timed_line,
        clock=time.monotonic,
        begun_s=begun_s,
        storage=hooks.storage,
        inspect=hooks.inspect,
        variants=hooks.variants,
    )
    measured = measure(bench)
    supplement = hooks.supplement(measured, out)
    summary = summarise(bench, SEED, measured, context, supplement)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    write_report(out / "report.html", suite, measured, summary, supplement.grids)
    return summary
