"""Tiers of a gateway's model: two, for 20 steps of images up to 256 x 256."""

from lego_serve.core.tiers.book import TierBook, TierRun
from lego_serve.core.tiers.grids import Grid, shifted_sigmas

BOOK = TierBook(
    tuple(
        TierRun(tier, "euler", 20, (96 * 96, 256 * 256), Grid("euler", shifted_sigmas(evaluations, 3.0, 0.001)))
        for tier, evaluations in (("high", 10), ("fast", 5))
    )
)
