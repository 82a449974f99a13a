"""Keeps what cannot be loaded from being tried at every request: for a while, and for twice as long each time.

Laws: a key is held back only after a failure of its own; a success forgets all failures; no wait is above the most.
"""

from collections.abc import Mapping
from dataclasses import dataclass

FIRST_S = 15.0
MOST_S = 600.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a key failed last, how often in a row, and until when it is not tried again."""

    reason: str
    times: int
    until_s: float


class Quarantine:
    """The keys that failed, for any owner of loads; times are on the owner's clock."""

    def __init__(self, first_s: float = FIRST_S, most_s: float = MOST_S) -> None:
        if not 0 < first_s <= most_s:
            raise ValueError(f"a quarantine of {first_s:g} s at first and {most_s:g} s at the most cannot be kept")
        self._first_s, self._most_s = first_s, most_s
        self._failures: dict[str, Failure] = {}

    def note_failure(self, key: str, reason: str, now: float) -> Failure:
        """A key has failed: it is held back from now on."""
        before = self._failures.get(key)
        times = 1 if before is None else before.times + 1
        pause_s = min(self._most_s, self._first_s * 2 ** min(times - 1, 32))
        failure = self._failures[key] = Failure(reason, times, now + pause_s)
        return failure

    def note_success(self, key: str) -> None:
        """A key works."""
        self._failures.pop(key, None)

    def held_back(self, key: str, now: float) -> Failure | None:
        """Return the failure for which a key is not tried now; None where it may be."""
        failure = self._failures.get(key)
        return failure if failure is not None and now < failure.until_s else None

    def failures(self) -> Mapping[str, Failure]:
        """Return the keys whose last try failed."""
        return dict(self._failures)
