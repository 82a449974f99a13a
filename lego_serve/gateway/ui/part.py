"""What one gateway has to say to the one that somebody looks at, and what that one knows of all of them."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lego_serve.core.jobs.history import ENDED_KEPT
from lego_serve.core.jobs.series import COARSE_S, FINE_S, Series
from lego_serve.core.whole_numbers import whole_number
from lego_serve.gateway.ui.recorder import Recorder
from lego_serve.gateway.ui.rows import row_of

ENDED_AT_ONCE = 500
LIVE_MOST = 1000
WINDOWS = {FINE_S: 300.0, COARSE_S: 3600.0}


@dataclass(frozen=True, slots=True)
class Since:
    """How far a gateway has been heard: the numbers of its last job and decision, and the time of its last bins."""

    job: int = 0
    decision: int = 0
    at: float = 0.0

    def __str__(self) -> str:
        return f"{self.job}.{self.decision}.{self.at:.0f}"

    @classmethod
    def read(cls, text: str, gateway: str) -> "Since":
        """Return what a query says of a gateway: ``ID.JOB.DECISION.AT`` of several, with commas."""
        for each in text.split(","):
            name, *numbers = each.split(".")
            if name == gateway and len(numbers) == 3:
                job, decision, at = map(whole_number, numbers)
                return cls() if job is None or decision is None or at is None else cls(job, decision, float(at))
        return cls()


def part_of(recorder: Recorder, since: Since) -> dict[str, Any]:
    """Return this gateway's part."""
    runner, now = recorder.context.runner, recorder.clock()
    history = runner.journal.history
    ended = history.ended(since.job)[-ENDED_AT_ONCE:]
    decisions = runner.journal.decisions(since.decision)
    bins = {
        str(length): recorder.series.to_json(length, now, min(window_s, now - since.at + 2 * length))
        for length, window_s in WINDOWS.items()
    }
    return {
        "object": "part",
        "at": round(now, 3),
        "gateway": {
            "id": recorder.id,
            "pid": recorder.pid,
            "up_s": round(now - recorder.started, 1),
            "in_flight": runner.in_flight,
            "is_ready": runner.is_ready,
        },
        "live": [row_of(recorder, record) for record in history.live[:LIVE_MOST]],
        "ended": [row_of(recorder, record) for record in ended],
        "job": ended[-1].number if ended else since.job,
        "decisions": [
            {
                "number": each.number,
                "at": round(recorder.wall(each.at_s), 3),
                "kind": each.kind,
                "subject": each.subject,
                "why": each.why,
                "by": each.by,
                "job": each.job,
                "count": each.count,
                "node": each.node,
                "gateway": recorder.id,
            }
            for each in decisions
        ],
        "decision": decisions[-1].number if decisions else since.decision,
        "bins": bins,
        "totals": recorder.totals,
        "found": recorder.found,
        "errors": recorder.errors()[:50],
        "comparisons": recorder.context.quality_checks.comparisons(),
    }


@dataclass(slots=True)
class KnownGateway:
    """What is known of one gateway, kept while somebody looks."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    heard: float = 0.0
    since: Since = field(default_factory=Since)
    live: Sequence[dict[str, Any]] = ()
    ended: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=ENDED_KEPT))
    decisions: dict[int, dict[str, Any]] = field(default_factory=dict)
    bins: dict[int, dict[int, Sequence[Any]]] = field(default_factory=lambda: {length: {} for length in WINDOWS})
    totals: Mapping[str, float] = field(default_factory=dict)
    found: Mapping[str, Sequence[int]] = field(default_factory=dict)
    errors: Sequence[dict[str, Any]] = ()
    comparisons: Sequence[dict[str, Any]] = ()

    def take(self, part: Mapping[str, Any], now: float) -> None:
        """Take a part of it, which goes on where the last one ended."""
        self.facts, self.heard = part["gateway"], now
        self.live = part["live"]
        self.ended += part["ended"]
        for decision in part["decisions"]:
            self.decisions[decision["number"]] = decision
        for number in sorted(self.decisions)[:-500]:
            del self.decisions[number]
        for length, kept in self.bins.items():
            kept |= {int(each[0]): each for each in part["bins"][str(length)]}
            first = (now - WINDOWS[length]) // length
            for index in [index for index in kept if index < first]:
                del kept[index]
        self.totals, self.found, self.errors = part["totals"], part["found"], part["errors"]
        self.comparisons = part["comparisons"]
        self.since = Since(part["job"], part["decision"], max(0.0, part["at"]))


def merged_series(gateways: Sequence[KnownGateway]) -> Series:
    """Return the series of several gateways together."""
    series = Series()
    for length in WINDOWS:
        every = sorted((each for known in gateways for each in known.bins[length].values()), key=lambda each: each[0])
        series.merge(length, every)
    return series
