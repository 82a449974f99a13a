"""How like edits that read activations are to the same edits computed in full, by class, and what follows from it.

Some edits are computed a second time, in full, and compared.  A cohort of edits whose mean SSIM is under its
workflow's floor is computed one rung up the ladder from then on.  Invariants: nothing is judged by fewer than
``MIN_SAMPLES`` comparisons; what is older than the window counts no more, so that a cohort gets another chance; nobody
is ever given less than they asked for; comparing takes no more than its share of the time.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from lego_serve.core.editing.reuse import Quality

LADDER = (Quality.BALANCED, Quality.HIGH, Quality.CAREFUL, Quality.EXACT)
SHARES = (0.1, 0.2, 0.4, 1.0)  # classes of masks, by the part of the image they touch at most
AREAS = (128 * 128, 256 * 256, 512 * 512, 1024 * 1024)  # and of images, by pixels at most
MIN_SAMPLES, MAX_SAMPLES = 3, 20


@dataclass(frozen=True, slots=True)
class EditCohort:
    """Edits that are judged together: a workflow's, of about one share of about one size of image.

    Those whose request says what the image shows are much more like their full computation, and are by themselves.
    """

    workflow: str
    share: float
    pixels: int
    is_described: bool = False

    @classmethod
    def of(cls, workflow: str, share: float, pixels: int, is_described: bool = False) -> "EditCohort":
        """The class of an edit that touches a share of an image of so many pixels."""
        wide = next((bound for bound in SHARES if share <= bound), SHARES[-1])
        large = next((bound for bound in AREAS if pixels <= bound), 2 * AREAS[-1])
        return cls(workflow, wide, large, is_described)


@dataclass(slots=True)
class _Record:
    """What was found of one class at one quality, newest last."""

    found: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))


class QualityGuard:
    """The comparisons of one process, for which it has a share of the time; none where that is 0."""

    def __init__(self, share: float, window_s: float = 3600.0) -> None:
        self._share, self._window_s = share, window_s
        self._free_s = -math.inf
        self._records: dict[tuple[EditCohort, Quality], _Record] = {}

    def quality(self, of: EditCohort, asked: Quality, floor: float | None, now: float) -> Quality:
        """At which quality to run an edit: as asked, or further up the ladder where that was found wanting."""
        rungs = LADDER[LADDER.index(asked) :]
        if floor is None:
            return asked
        return next((rung for rung in rungs if not self._is_under(of, rung, floor, now)), Quality.EXACT)

    def is_due(self, of: EditCohort, quality: Quality, now: float) -> bool:
        """Whether an edit is to be compared: time is left for it, and not enough is known of its class."""
        if not self._share or quality is Quality.EXACT or now < self._free_s:
            return False
        record = self._records.setdefault((of, quality), _Record())
        return sum(1 for _ in self._recent(record, now)) < MAX_SAMPLES

    def spent(self, seconds: float, now: float) -> None:
        """A comparison has taken so long, whatever came of it."""
        self._free_s = now + seconds / self._share

    def observe(self, of: EditCohort, quality: Quality, likeness: float, now: float) -> None:
        """An edit was compared: its SSIM within the mask."""
        self._records.setdefault((of, quality), _Record()).found.append((now, likeness))

    def _is_under(self, of: EditCohort, quality: Quality, floor: float, now: float) -> bool:
        record = self._records.get((of, quality))
        recent = [] if record is None or quality is Quality.EXACT else list(self._recent(record, now))
        return len(recent) >= MIN_SAMPLES and sum(recent) / len(recent) < floor

    def _recent(self, record: _Record, now: float) -> Iterator[float]:
        return (likeness for at, likeness in record.found if now - at <= self._window_s)
