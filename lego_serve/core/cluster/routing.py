"""Which cell a gateway sends a request to, from reports that may be seconds old.

A report ages: its work is done meanwhile, and what the gateway itself has sent since, times the number of gateways, has
come on top.  The gateway refuses only what no cell could serve even so; the cell, which knows, decides.  With
``choices`` set it compares only so many cells at random: what is left when reports are all it has and dispatchers are
gone, for least-of-all on old reports sends everybody to the same place.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lego_serve.core.cluster.work import JobWork

RETRIES = 1  # cells that are asked after one that refuses
DOUBT = 0.5  # of the predicted wait; a gateway refuses only if even so much less would be too late


@dataclass(frozen=True, slots=True)
class CellView:
    """What a cell reports: its workers, the seconds of work it has, the models it holds, and when."""

    workers: int
    work_s: float
    resident: frozenset[str]
    reported_s: float


@dataclass(frozen=True, slots=True)
class Route:
    """Where to send a request: the cell, the seconds it is expected to wait there, and why there."""

    cell: int
    wait_s: float
    reason: str
    others: tuple[int, ...] = ()  # where to ask if it refuses, the best first


@dataclass(frozen=True, slots=True)
class NoRoute:
    """No cell could serve the request in time; the seconds after which one could."""

    retry_after_s: float
    reason: str


class Router:
    """One gateway's knowledge of all cells."""

    def __init__(self, cells: int, *, gateways: int = 1, choices: int = 0) -> None:
        self._views: list[CellView | None] = [None] * cells
        self._sent_s = [0.0] * cells  # seconds of work sent since the report
        self._gateways = gateways
        self._choices = choices

    def report(self, cell: int, view: CellView) -> None:
        """Take a cell's report."""
        self._views[cell] = view
        self._sent_s[cell] = 0.0

    def route(self, work: JobWork, deadline_s: float, now: float, rng: random.Random) -> Route | NoRoute:
        """Choose a cell for a request."""
        among: Sequence[int] = range(len(self._views))
        if self._choices:
            among = rng.sample(among, min(self._choices, len(among)))
        waits = sorted((self._wait_s(cell, work, now), cell) for cell in among)
        wait_s, cell = waits[0]
        excess_s = now + DOUBT * wait_s + work.critical_s - deadline_s
        if excess_s > 0.0:
            return NoRoute(excess_s / DOUBT, f"the least wait among {len(waits)} cells is {wait_s:.1f} s")
        self._sent_s[cell] += work.paired_s
        others = tuple(other for _, other in waits[1 : 1 + RETRIES])
        return Route(cell, wait_s, f"the least wait among {len(waits)} cells", others)

    def _wait_s(self, cell: int, work: JobWork, now: float) -> float:
        view = self._views[cell]
        if view is None or not view.workers:
            return float("inf")
        sent_s = self._gateways * self._sent_s[cell]
        left_s = (view.work_s + sent_s) / view.workers - (now - view.reported_s)
        missing = work.models - view.resident
        return max(0.0, left_s) + (work.costs.load_s(missing) if missing else 0.0)
