"""What jobs use and need next: kept from being evicted.

A job's models are used one after another.  What a call runs on stays until the call ends, and so does what its job
needs after it.  Between two calls nothing holds the next model but an expectation, and that ends by itself, for a
caller that is gone never comes back.

Laws: whatever is kept for a job is kept for ever only while a call of it runs, and a call that runs waits for no room.
A call that waits for room keeps no more than an expectation, which ends: so no two jobs wait for each other for ever.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager

KEEP_S = 5.0


class Expectations:
    """The keys that running calls hold, and those that jobs will ask for, by job; times are on the owner's clock."""

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self._keep_s = keep_s
        self._jobs: dict[str, tuple[frozenset[str], float]] = {}
        self._held: Counter[str] = Counter()

    def expect(self, job: str, keys: Collection[str], now: float) -> None:
        """Replace what a job needs next; nothing where it needs no more."""
        if keys:
            self._jobs[job] = (frozenset(keys), now + self._keep_s)
        else:
            self._jobs.pop(job, None)

    @contextmanager
    def holding(self, keys: Collection[str]) -> Iterator[None]:
        """Keep what a call runs on, or what comes after it, for as long as the block runs."""
        held = frozenset(keys)
        self._held.update(held)
        try:
            yield
        finally:
            self._held.subtract(held)
            self._held = +self._held

    def keys(self, now: float) -> frozenset[str]:
        """Return what any job needs; expectations that have ended are forgotten."""
        self._jobs = {job: each for job, each in self._jobs.items() if now < each[1]}
        return frozenset(self._held).union(*(keys for keys, _ in self._jobs.values()))

    def ends_s(self) -> float | None:
        """Return when the next expectation ends, if there is one."""
        return min((end_s for _, end_s in self._jobs.values()), default=None)
