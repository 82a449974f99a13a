"""Runs a suite of tiers."""

from pathlib import Path

from loadgen.mixed.hooks import SuiteHooks
from loadgen.mixed.plan import Layout
from loadgen.mixed.run import SEED, compare_mixed
from loadgen.mixed.systems import MixedSystems, Start
from loadgen.mixed.workload import Workload
from loadgen.progress import OnLine
from loadgen.tiers.plan import TierSuite
from loadgen.tiers.requests import TieredWorkload, asked_plainly


def compare_tiers(
    suite: TierSuite, systems: MixedSystems, out: Path, *, quick: bool, on_line: OnLine
) -> dict[str, object]:
    """Run the suite, write ``summary.json`` and ``report.html`` into ``out``, and return the summary."""
    hooks = SuiteHooks(TieredWorkload(Workload(suite.mixed, SEED), suite))
    return compare_mixed(suite.mixed, tier_systems(suite, systems), out, quick=quick, on_line=on_line, hooks=hooks)


def tier_systems(suite: TierSuite, systems: MixedSystems) -> MixedSystems:
    """Return the systems of suite ``mixed``, of which the baseline is asked for plain steps."""

    def baseline(layout: Layout, compiled: bool) -> Start:
        plain = systems.lego(None) if suite.is_of_lego else systems.baseline(layout, compiled)
        return asked_plainly(plain, suite.baseline_steps)

    return MixedSystems(baseline, systems.lego)
