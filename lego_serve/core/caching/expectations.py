"""What admitted jobs need next: kept from being evicted until their next call comes, or for so long at the most.

A job's models are used one after another.  Between two of its calls nothing holds the next model but this.  A caller
that is gone never comes back for it, so each expectation ends by itself.
"""

from collections.abc import Collection

KEEP_S = 5.0


class Expectations:
    """The keys that jobs will ask for, by job."""

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self._keep_s = keep_s
        self._jobs: dict[str, tuple[frozenset[str], float]] = {}

    def expect(self, job: str, keys: Collection[str], now: float) -> None:
        """Replace what a job needs next; nothing where it needs no more."""
        if keys:
            self._jobs[job] = (frozenset(keys), now + self._keep_s)
        else:
            self._jobs.pop(job, None)

    def keys(self, now: float) -> frozenset[str]:
        """Return what any job needs next; expectations that have ended are forgotten."""
        self._jobs = {job: each for job, each in self._jobs.items() if now < each[1]}
        return frozenset().union(*(keys for keys, _ in self._jobs.values()))
