"""The suites that are predicted, by name, and what is measured of each beside what the suite itself measures."""

from collections.abc import Mapping
from dataclasses import replace

from loadgen.addons.plan import ADDONS
from loadgen.goodput.plan import GOODPUT, GoodputEffort, GoodputSuite
from loadgen.mixed.plan import MIXED, Effort, MixedSuite

FACTORS = (0.5, 0.8, 1.0)  # of the limit
SEED = 0  # of all suites

# Another mix of the same sizes: few steps, and half of the requests without guidance.
BRIEF = replace(MIXED, name="mixed-brief", fewest_steps=4, most_steps=12, without_guidance_every=2)

SUITES: Mapping[str, MixedSuite | GoodputSuite] = {
    **{suite.name: suite for suite in (MIXED, ADDONS, BRIEF)},
    **GOODPUT,
}


def mixed_effort(suite: MixedSuite, *, quick: bool) -> Effort:
    """Return how much is measured; the compiled baseline, which is in no prediction, is left out."""
    return replace(suite.quick if quick else suite.full, compiled_s=None)


def goodput_effort(suite: GoodputSuite, *, quick: bool) -> GoodputEffort:
    """Return how much is measured."""
    return suite.quick if quick else suite.full


def goodput_factors(suite: GoodputSuite) -> tuple[float, ...]:
    """Return the suite's own loads and those that every suite is predicted at, as shares of the limit."""
    return tuple(sorted({*suite.loads, *FACTORS}))
