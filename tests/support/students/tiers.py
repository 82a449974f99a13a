"""A tier that runs another checkpoint, for tests: four steps without guidance in place of 20."""

from dataclasses import replace
from pathlib import Path

from lego_serve.core.tiers.book import TierBook, TierRun
from lego_serve.core.tiers.checkpoints import Checkpoint
from lego_serve.core.tiers.grids import Grid, shifted_sigmas
from lego_serve.models.tier_files import write_book
from lego_serve.models.weights_digest import denoiser_digest

FAST = TierRun("fast", "euler", 20, (96 * 96, 256 * 256), Grid("euler", shifted_sigmas(5, 3.0, 0.001)))
STUDENT = Checkpoint("/students/turbo", "abc")
TURBO = replace(FAST, tier="turbo", grid=Grid("euler", (1.0, 0.8, 0.5, 0.3, 0.0)), checkpoint=STUDENT)
BOOK = TierBook((FAST, TURBO))


def with_turbo(base: Path, student: Path) -> TierBook:
    """Give a base's folder both tiers, of which turbo runs a student; return its book."""
    checkpoint = Checkpoint(str(student), denoiser_digest(student))
    book = TierBook((FAST, replace(TURBO, checkpoint=checkpoint)), weights=denoiser_digest(base))
    write_book(book, base / "tiers.json")
    return book
