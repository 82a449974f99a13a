"""Which jobs wait in gateways for a shared worker: whoever counts workers sees only the calls that were sent to them.

Each gateway writes its own report while jobs wait there, with a number that grows; clocks of machines differ, so that
a report is as old as the time since its number changed.  Laws: a report counts for HEARD_S after it was last heard
anew, so that the jobs of a gateway that died count no longer; without a report nobody waits.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

HEARD_S = 10.0  # gateways report every second


@dataclass(frozen=True, slots=True)
class WaitingReport:
    """The jobs that wait in a gateway, by application; ``number`` is another one each time that it is told."""

    number: int
    jobs: Mapping[str, int]

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps([self.number, dict(self.jobs)], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "WaitingReport":
        """Return what ``to_json`` wrote."""
        number, jobs = json.loads(text)
        return cls(number, jobs)


class WaitingReports:
    """The reports of all gateways, by their keys; times are on the clock of whoever hears them."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[WaitingReport, float]] = {}

    def hear(self, reports: Mapping[str, WaitingReport], now: float) -> frozenset[str]:
        """Take all reports that there are now; return the keys of those whose gateways are silent."""
        for key in self._heard.keys() - reports.keys():
            del self._heard[key]
        for key, report in reports.items():
            before = self._heard.get(key)
            if before is None or before[0].number != report.number:
                self._heard[key] = report, now
        return frozenset(key for key in reports if not self._counts(key, now))

    def of(self, app: str, now: float) -> int:
        """The jobs that wait for an application's workers."""
        return sum(report.jobs.get(app, 0) for key, (report, _) in self._heard.items() if self._counts(key, now))

    def _counts(self, key: str, now: float) -> bool:
        return abs(now - self._heard[key][1]) <= HEARD_S
