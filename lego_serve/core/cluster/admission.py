"""Admits a job if a list schedule of everything in flight and of the newcomer ends all in time; else sheds the least.

What is shed costs the least value for the most seconds: the newcomer, or a job that has not started, or, where that is
allowed, one that has.  A class below its floor is shed only when nobody else can be, and a tenant that holds more than
its share before others.  Laws: an admitted job leaves only by an end or by a ``Shed`` that names it; a refusal says
after how many seconds the same job would have fitted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lego_serve.core.cluster.schedule import NEVER, Entry, Schedule, late_ones, list_schedule
from lego_serve.core.cluster.state import Lane

MARGIN = 0.03  # a class this near its floor is protected already
MEMORY = 0.98  # weight of the past in a class's attainment against its next request
PROTECTED = 1e-3  # of the reason to shed, for a class below its floor


@dataclass(frozen=True, slots=True)
class AdmissionRule:
    """What may be shed, the floors of classes, and by how much estimates are padded."""

    admits_all: bool = False
    sheds_waiting: bool = True
    sheds_started: bool = False
    floors: Mapping[str, float] = field(default_factory=dict)
    tenant_weights: Mapping[str, float] = field(default_factory=dict)
    padding_s: float = 0.0  # kept free before each deadline


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the newcomer is admitted, who must go for it, when it ends, and if not, when to come again."""

    is_admitted: bool
    shed: tuple[Lane, ...]
    eta_s: float
    place: int
    retry_after_s: float
    reason: str


class ClassShares:
    """The share of recent requests of each class that were not given up."""

    def __init__(self, floors: Mapping[str, float]) -> None:
        self._floors = floors
        self._share: dict[str, float] = {}

    def count(self, group: str, kept: float) -> None:
        """Count a request that was kept (1) or refused (0)."""
        self._share[group] = MEMORY * self._share.get(group, 1.0) + (1.0 - MEMORY) * kept

    def lose(self, group: str) -> None:
        """Take back a request that had been counted as kept."""
        self._share[group] = max(0.0, self._share.get(group, 1.0) - (1.0 - MEMORY))

    def is_protected(self, group: str) -> bool:
        """Whether the class is at its floor."""
        floor = self._floors.get(group, self._floors.get("*", 0.0))
        return floor > 0.0 and self._share.get(group, 1.0) < floor + MARGIN


class Admission:
    """Decides about each newcomer from the entries of what is in flight, in their order."""

    def __init__(self, rule: AdmissionRule = AdmissionRule()) -> None:
        self.rule = rule
        self.shares = ClassShares(rule.floors)
        self._held: dict[str, int] = {}  # jobs of each tenant in flight

    def offer(
        self,
        newcomer: Lane,
        entry: Entry,
        entries: Sequence[Entry],
        lanes: Mapping[int, Lane],
        free_s: Sequence[float],
        now: float,
    ) -> Verdict:
        """Decide about a newcomer; ``entries`` are those of ``lanes``, in order, without it."""
        self._held = self._tenants(lanes)
        place = _position(entries, entry)
        trial = [*entries[:place], entry, *entries[place:]]
        schedule = list_schedule(trial, free_s)
        if schedule.late is None or self.rule.admits_all:
            eta_s = schedule.ends_s[place] if place < len(schedule.ends_s) else now + entry.seconds
            return Verdict(True, (), eta_s, place, 0.0, "all in flight end in time" if schedule.late is None else "all")
        return self._shed(newcomer, entry, trial, lanes, free_s, now)

    def _shed(
        self,
        newcomer: Lane,
        entry: Entry,
        trial: list[Entry],
        lanes: Mapping[int, Lane],
        free_s: Sequence[float],
        now: float,
    ) -> Verdict:
        trial = self._excused([each for each in trial if each is not entry], free_s, entry)
        shed: list[Lane] = []
        while True:
            schedule = list_schedule(trial, free_s)
            if schedule.late is None:
                place = next(i for i, each in enumerate(trial) if each.number == entry.number)
                return Verdict(True, tuple(shed), schedule.ends_s[place], place, 0.0, _names(shed))
            victim = self._victim(newcomer, entry, trial[: schedule.late + 1], lanes)
            if victim is None or victim.number == entry.number:
                return Verdict(False, (), NEVER, -1, self._retry_after_s(trial, entry, schedule, now), "would be late")
            shed.append(lanes[victim.number])
            trial.remove(victim)

    def _excused(self, entries: list[Entry], free_s: Sequence[float], entry: Entry) -> list[Entry]:
        """The entries with the newcomer's; those that are late without it may be late with it."""
        for late in late_ones(entries, free_s):
            entries[late] = entries[late]._replace(deadline_s=NEVER)
        place = _position(entries, entry)
        return [*entries[:place], entry, *entries[place:]]

    def _victim(self, newcomer: Lane, entry: Entry, among: Sequence[Entry], lanes: Mapping[int, Lane]) -> Entry | None:
        best, most = None, -1.0
        for each in among:
            is_newcomer = each.number == entry.number
            if not is_newcomer and not self._may_shed(each):
                continue
            cost = self._reason_to_shed(newcomer if is_newcomer else lanes[each.number], each)
            if cost > most or (cost == most and is_newcomer):
                best, most = each, cost
        return best

    def _may_shed(self, entry: Entry) -> bool:
        rule = self.rule
        if entry.deadline_s == NEVER:
            return False
        return rule.sheds_started if entry.bound is not None else rule.sheds_waiting

    def _reason_to_shed(self, lane: Lane, entry: Entry) -> float:
        """Seconds that are won for each unit of value that is lost."""
        job = lane.job
        reason = entry.seconds / job.value
        if self.shares.is_protected(job.group):
            reason *= PROTECTED
        if self.rule.tenant_weights:
            weight = self.rule.tenant_weights.get(job.tenant, 1.0)
            reason *= self._held.get(job.tenant, 0) / weight
        return reason

    def _tenants(self, lanes: Mapping[int, Lane]) -> dict[str, int]:
        held: dict[str, int] = {}
        if self.rule.tenant_weights:
            for lane in lanes.values():
                held[lane.job.tenant] = held.get(lane.job.tenant, 0) + 1
        return held

    def _retry_after_s(self, trial: Sequence[Entry], entry: Entry, schedule: Schedule, now: float) -> float:
        """By how much the first late job is late: that much work must be gone before the newcomer fits."""
        assert schedule.late is not None
        late = trial[schedule.late]
        return max(0.001, schedule.ends_s[schedule.late] - late.deadline_s)


def _position(entries: Sequence[Entry], entry: Entry) -> int:
    low, high = 0, len(entries)
    while low < high:
        middle = (low + high) // 2
        if (entries[middle].key, entries[middle].number) < (entry.key, entry.number):
            low = middle + 1
        else:
            high = middle
    return low


def _names(shed: Sequence[Lane]) -> str:
    return f"after giving up {', '.join(str(lane.job.id) for lane in shed)}" if shed else "all in flight end in time"
