"""Whether the next step of a lone lane has its guidance branches on two replicas: by what such steps took lately.

A replica asks a helper that may be busy; then both branches stay here, and for a while nobody is asked.  Where steps on
two replicas are not enough faster than on one, splitting is left off, and tried again now and then, since a helper's
core may have had other work.  Laws: without a helper, or with company, a lane is never split; seconds are smoothed, so
that one slow step changes nothing.
"""

from lego_serve.core.cluster.parallelism import ParallelRule, speed_up_suffices

BUSY_PAUSE_S = 0.25  # after a helper had lanes of its own
SLOW_PAUSE_S = 2.0  # after split steps had been no faster
MEMORY = 0.7  # weight of the past steps against the next


class BranchWindow:
    """The splitting of one replica's lanes; ``now`` is on the replica's clock."""

    def __init__(self, rule: ParallelRule | None = None) -> None:
        self._rule = rule or ParallelRule()
        self._paused_until_s = float("-inf")
        self._speed_up: float | None = None

    @property
    def speed_up(self) -> float | None:
        """How many times faster split steps were of late than predicted on one replica; None before the first."""
        return self._speed_up

    def is_split(self, *, lanes: int, has_helper: bool, now: float) -> bool:
        """Whether the next step's branches go to two replicas."""
        return self._rule.splits and lanes == 1 and has_helper and now >= self._paused_until_s

    def note_split(self, paired_s: float, took_s: float, now: float) -> None:
        """A step on two replicas took so long; on one it was predicted to take ``paired_s``."""
        if paired_s <= 0.0 or took_s <= 0.0:
            return
        seen = paired_s / took_s
        self._speed_up = seen if self._speed_up is None else MEMORY * self._speed_up + (1.0 - MEMORY) * seen
        if not speed_up_suffices(self._rule, self._speed_up, idle=1, workers=2):
            self._paused_until_s, self._speed_up = now + SLOW_PAUSE_S, None

    def note_busy(self, now: float) -> None:
        """The helper has lanes of its own, or is gone."""
        self._paused_until_s = now + BUSY_PAUSE_S
