"""Pools for tests, and one that decides by the plain definition: one schedule of all its jobs for each question."""

from hypothesis import strategies as st

from lego_serve.core.cluster.schedule import NEVER, Entry
from lego_serve.core.jobs.forecast import Forecast
from lego_serve.core.placement.pool import Pool
from lego_serve.core.placement.pool_jobs import PoolJob, PoolRule, Steal
from lego_serve.core.placement.pool_replicas import FIRST_LOAD_S, OVERDUE_S

Placed = list[tuple[Entry, int, float, float]]  # each with its slot, its start and its end
A, B = frozenset({"a"}), frozenset({"b"})
NAMES, MODELS = ("one", "two", "three", "four"), ("a", "b", "c")
SECONDS = st.one_of(st.integers(0, 4).map(float), st.floats(0.0, 5.0))  # whole ones, so that some are equal
SETS = st.frozensets(st.sampled_from(MODELS))


def job(number: int, seconds: float = 1.0, models: frozenset[str] = A, deadline_s: float = float("inf")) -> PoolJob:
    """A job of a second."""
    return PoolJob(f"job {number}", seconds, models, deadline_s)


def pool(rule: PoolRule | None = None, **resident: tuple[str, ...]) -> Pool:
    """A pool whose replicas hold these models."""
    made = Pool(rule)
    made.report(resident)
    return made


def filled() -> Pool:
    """Two replicas with three jobs of a second each, of which the second has ended its own."""
    two = pool(PoolRule(move_s=0.3), one=("a",), other=("a",))
    for number in range(6):
        two.add(job(number), 0.0)
    for number in (1, 3, 5):
        two.end(f"job {number}", 1.0)
    return two


class PlainPool(Pool):
    """What happens is kept as in a pool; what is decided is worked out from the beginning."""

    def forecast(self, job: PoolJob, now: float) -> Forecast | None:
        """Admit a newcomer unless it ends late, or somebody does who would not without it."""
        if not self._replicas:
            return None
        slots, before = len(self._replicas), self._in_order(now)
        newcomer = self._plain_entry(job, max(self._numbers.values(), default=-1) + 1, now)
        order = sorted([*before, newcomer], key=lambda each: each[:2])
        place, without, made = order.index(newcomer), placed(before, slots, now), placed(order, slots, now)
        late_anyway = {each.number for each, _, _, end_s in without if is_late(each, end_s)}
        late = [each for each in made if is_late(each[0], each[3]) and each[0].number not in late_anyway]
        retry_after_s = max(0.001, late[0][3] - late[0][0].deadline_s) if late else None
        return Forecast(made[place][3], place, retry_after_s)

    def bind(self, now: float) -> list[tuple[str, str]]:
        """Bind what begins soon, or on a replica that has few jobs."""
        names, by_number = list(self._replicas), {number: name for name, number in self._numbers.items()}
        bound = []
        for entry, slot, start_s, _ in placed(self._in_order(now), len(names), now) if names else []:
            has_room = len(self._replicas[names[slot]].jobs) < self._rule.ahead or start_s <= now + self._rule.ahead_s
            if entry.bound is None and has_room:
                self._bind(by_number[entry.number], names[slot], now)
                bound.append((by_number[entry.number], names[slot]))
        return bound

    def _best_to_take(self, name: str, now: float) -> Steal | None:
        on_replicas = placed([each for each in self._in_order(now) if each.bound is not None], len(self._replicas), now)
        ends_s = {each.number: end_s for each, _, _, end_s in on_replicas}
        for job_id in sorted(self._bound, key=lambda each: (self._jobs[each].deadline_s, self._numbers[each])):
            before, job = self._bound[job_id], self._jobs[job_id]
            if job_id in self._settled or len(self._replicas[before].jobs) < 2:
                continue
            sooner_s = ends_s[self._numbers[job_id]] - (self._ready_s(name, job.models, now) + job.seconds)
            if sooner_s > self._rule.move_s:
                return Steal(job_id, before, name, sooner_s)
        return None

    def _in_order(self, now: float) -> list[Entry]:
        entries = [self._plain_entry(job, self._numbers[name], now) for name, job in self._jobs.items()]
        return sorted(entries, key=lambda each: each[:2])

    def _plain_entry(self, job: PoolJob, number: int, now: float) -> Entry:
        name, ready_s = self._bound.get(job.id), [self._ready_s(each, job.models, now) for each in self._replicas]
        slot = None if name is None else list(self._replicas).index(name)
        if all(each == NEVER for each in ready_s):  # whoever gets it says why
            ready_s = [now for _ in ready_s]
        return Entry(job.deadline_s, number, job.deadline_s, job.seconds, slot, ready_s)

    def _ready_s(self, name: str, models: frozenset[str], now: float) -> float:
        replica = self._replicas[name]
        missing = models - replica.resident
        if any(replica.held.get(model, now) > now for model in missing):
            return NEVER
        expected = {model: at_s for model, at_s in replica.loads.items() if at_s + OVERDUE_S >= now}
        arriving_s = max([now, *(expected[model] for model in missing if model in expected)])
        loads_s = (self._load_s.get(model, FIRST_LOAD_S) for model in sorted(missing) if model not in expected)
        return arriving_s + sum(loads_s)


def placed(entries: list[Entry], slots: int, now: float) -> Placed:
    """The entries in order on slots that are free now: each on its own, or where it begins first."""
    free_s, made = [now] * slots, []
    for entry in entries:
        ready_s = entry.ready_s if entry.bound is None and entry.ready_s is not None else [now] * slots
        starts = [max(pair) for pair in zip(free_s, ready_s, strict=True)]
        slot = starts.index(min(starts)) if entry.bound is None else entry.bound
        free_s[slot] = starts[slot] + entry.seconds
        made.append((entry, slot, starts[slot], free_s[slot]))
    return made


def is_late(entry: Entry, end_s: float) -> bool:
    """Whether it misses its deadline."""
    return end_s > entry.deadline_s + 1e-9 and entry.deadline_s < NEVER
