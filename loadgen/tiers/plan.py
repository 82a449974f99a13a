"""The suites of tiers as values: which requests name a tier, and what the other side computes in their place."""

from dataclasses import dataclass, replace

from loadgen.mixed.plan import MIXED, MixedSuite

STEPS = 28  # that lego-tiny's tiers are tuned for


@dataclass(frozen=True, slots=True)
class TierSuite:
    """A suite whose requests name ``tier`` in a ``share`` of the cases, for lego_serve.

    The baseline runs ``baseline_steps`` of its own; ``is_of_lego``: it is lego_serve too, asked without a tier.
    """

    mixed: MixedSuite
    tier: str
    share: float
    baseline_steps: int
    is_of_lego: bool = False

    @property
    def name(self) -> str:
        """The name of the suite."""
        return self.mixed.name


def _suite(name: str, title: str, **changes: object) -> MixedSuite:
    plain = replace(MIXED, name=name, title=title, fewest_steps=STEPS, most_steps=STEPS)
    return replace(plain, **changes)  # type: ignore[arg-type]


ALL_BALANCED = TierSuite(
    _suite("mixed-balanced", "All requests balanced, against all 28 steps"), "balanced", 1.0, STEPS
)
AGAINST_TEN = TierSuite(
    _suite("mixed-balanced-plain", "All requests balanced, against ten plain steps"), "balanced", 1.0, 10
)
# Both sides are lego_serve, so either both are told the objective as a deadline, or neither is.
SOME_BALANCED = TierSuite(
    _suite(
        "mixed-some-balanced",
        "Three requests in ten balanced, against none",
        sends_deadline=False,
        baseline="lego_serve, all exact",
    ),
    "balanced",
    0.3,
    STEPS,
    is_of_lego=True,
)
TIERS = {suite.name: suite for suite in (ALL_BALANCED, AGAINST_TEN, SOME_BALANCED)}
