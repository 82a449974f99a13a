"""Guards the quality of edits that reuse activations, by comparing some of them with their full computation.

Some edits are computed a second time, in full, and compared.  A cohort of edits whose mean SSIM is below its
workflow's floor runs one rung up the ladder of qualities from then on; a floor of 1 has all edits computed in full,
for which no comparison is waited for.  Invariants: a cohort is judged by at least
``MIN_SAMPLES`` comparisons; comparisons older than the window do not count, so that a cohort gets another chance; no
edit runs at less than the requested quality; comparisons take at most their share of the time.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from lego_serve.core.editing.reuse import Quality

LADDER = (Quality.BALANCED, Quality.HIGH, Quality.CAREFUL, Quality.EXACT)
SHARES = (0.1, 0.2, 0.4, 1.0)  # upper bounds of the classes of masks, as fractions of the image
AREAS = (128 * 128, 256 * 256, 512 * 512, 1024 * 1024)  # upper bounds of the classes of images, in pixels
MIN_SAMPLES, MAX_SAMPLES = 3, 20


@dataclass(frozen=True, slots=True)
class EditCohort:
    """Edits that are judged together: one workflow, one class of mask share, one class of image size.

    Edits with a caption form cohorts of their own, since they are much closer to their full computation.
    """

    workflow: str
    share: float
    pixels: int
    is_described: bool = False

    @classmethod
    def of(cls, workflow: str, share: float, pixels: int, is_described: bool = False) -> "EditCohort":
        """Return the cohort of an edit whose mask covers a share of an image of so many pixels."""
        max_share = next((bound for bound in SHARES if share <= bound), SHARES[-1])
        max_pixels = next((bound for bound in AREAS if pixels <= bound), 2 * AREAS[-1])
        return cls(workflow, max_share, max_pixels, is_described)


@dataclass(slots=True)
class _Record:
    """Comparisons of one cohort at one quality as (time, SSIM), newest last."""

    samples: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))


@dataclass(frozen=True, slots=True)
class Comparisons:
    """What comparing the edits of a cohort at a quality came to: how many, their mean SSIM, and what is used now."""

    cohort: EditCohort
    quality: Quality
    count: int
    mean: float


class QualityGuard:
    """The comparisons of one process, which may take a share of its time; a share of 0 means none."""

    def __init__(self, share: float, window_s: float = 3600.0) -> None:
        self._share, self._window_s = share, window_s
        self._next_comparison_s = -math.inf
        self._records: dict[tuple[EditCohort, Quality], _Record] = {}

    def quality(self, cohort: EditCohort, requested: Quality, min_ssim: float | None, now: float) -> Quality:
        """Return the quality to run an edit at: the requested one, or the next rung not below ``min_ssim``."""
        if min_ssim is None:
            return requested
        if min_ssim >= 1.0:
            return Quality.EXACT
        rungs = LADDER[LADDER.index(requested) :]
        return next((rung for rung in rungs if not self._is_below(cohort, rung, min_ssim, now)), Quality.EXACT)

    def is_due(self, cohort: EditCohort, quality: Quality, now: float) -> bool:
        """Return whether to compare an edit now: the time share allows it and its cohort has too few samples."""
        if not self._share or quality is Quality.EXACT or now < self._next_comparison_s:
            return False
        record = self._records.setdefault((cohort, quality), _Record())
        return sum(1 for _ in self._recent(record, now)) < MAX_SAMPLES

    def record_time(self, seconds: float, now: float) -> None:
        """Count the seconds of a comparison, whether it succeeded or failed, against the time share."""
        self._next_comparison_s = now + seconds / self._share

    def observe(self, cohort: EditCohort, quality: Quality, ssim: float, now: float) -> None:
        """Add a comparison: the SSIM within the mask."""
        self._records.setdefault((cohort, quality), _Record()).samples.append((now, ssim))

    def comparisons(self, now: float) -> list[Comparisons]:
        """Return what is known of each cohort at each quality, of those compared lately."""
        found = []
        for (cohort, quality), record in self._records.items():
            if recent := list(self._recent(record, now)):
                found.append(Comparisons(cohort, quality, len(recent), sum(recent) / len(recent)))
        return found

    def _is_below(self, cohort: EditCohort, quality: Quality, min_ssim: float, now: float) -> bool:
        record = self._records.get((cohort, quality))
        recent = [] if record is None or quality is Quality.EXACT else list(self._recent(record, now))
        return len(recent) >= MIN_SAMPLES and sum(recent) / len(recent) < min_ssim

    def _recent(self, record: _Record, now: float) -> Iterator[float]:
        return (ssim for time_s, ssim in record.samples if now - time_s <= self._window_s)
