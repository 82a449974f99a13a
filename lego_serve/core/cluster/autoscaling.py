"""How many workers share all models and how many replicas each dedicated node has, under one budget of GPUs.

A pool (the workers, or the replicas of one node) is wanted as large as keeps it at a share of its capacity, from the
work that was offered lately.  Its members may be several GPUs each, or parts of one.  Laws: sizes that are decided
never exceed the budget together, and nothing grows before the GPUs for it are free; a pool grows when it has been
wanted larger for a while, shrinks when it has been wanted smaller for a longer while, and a lull or a lost report
changes nothing before; a tick makes few changes; a clock that jumps back only lengthens a wait.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

WORKERS = "workers"  # the name of the pool that shares all models
SMALL = 1e-9  # sums of fractions are not exact


@dataclass(frozen=True, slots=True)
class PoolBounds:
    """The fewest and the most members of a pool, and what it counts for where not all can have what they want.

    ``gpus``: what each member takes of the budget; 0 for what is not bounded by it.
    """

    least: int = 0
    most: int = 1 << 30
    value: float = 1.0
    gpus: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or self.value <= 0 or self.gpus < 0:
            raise ValueError(f"no pool can have {self.least} to {self.most} members of value {self.value:g}")


@dataclass(frozen=True, slots=True)
class ScalerRule:
    """How full pools should be, and for how long something is wanted before it is done.

    ``drain_s``: how long what shrinks still takes its GPUs where the sizes that are told do not include it.
    """

    target_load: float = 0.7
    up_delay_s: float = 15.0
    down_delay_s: float = 300.0
    half_life_s: float = 60.0  # of offered work
    max_changes: int = 16  # of a tick
    drain_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """A pool gets another size, and why."""

    pool: str
    before: int
    after: int
    reason: str


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes that are decided, and the changes to get there: what shrinks is first."""

    gpus: Mapping[str, int]
    changes: tuple[Change, ...]

    @property
    def workers(self) -> int:
        """The workers that share all models."""
        return self.gpus.get(WORKERS, 0)


@dataclass(slots=True)
class _Pool:
    bounds: PoolBounds
    work_s: float = 0.0
    counted_s: float = 0.0
    direction: int = 0
    since_s: float = 0.0


class Scaler:
    """Decides the sizes of pools at each tick; it remembers offered work and since when a change is wanted."""

    def __init__(self, rule: ScalerRule, pools: Mapping[str, PoolBounds], budget: float) -> None:
        least = sum(bounds.least * bounds.gpus for bounds in pools.values())
        if least > budget + SMALL:
            raise ValueError(f"pools need {least:g} GPUs at the least, the budget is {budget:g}")
        self._rule = rule
        self._budget = budget
        self._pools = {name: _Pool(bounds) for name, bounds in pools.items()}
        self._draining: list[tuple[float, float]] = []  # until when how many GPUs are still taken

    def set_bounds(self, pool: str, bounds: PoolBounds) -> None:
        """Add a pool, or change its bounds; where all can not have their least, growth is what the budget leaves."""
        if pool in self._pools:
            self._pools[pool].bounds = bounds
        else:
            self._pools[pool] = _Pool(bounds)

    def begin(self, now: float) -> None:
        """Go on from one that is not known: its pools are seen one after the other, and some may still be draining.

        Until they have drained none of the budget counts as free.
        """
        if self._rule.drain_s > 0 and not math.isinf(self._budget):
            self._draining.append((now + self._rule.drain_s, self._budget))

    def remove(self, pool: str) -> None:
        """A pool is gone, with all that it had."""
        self._pools.pop(pool, None)

    def offered(self, pool: str, seconds: float, now: float) -> None:
        """Count work that was offered to a pool, also what was refused."""
        each = self._pools[pool]
        each.work_s = self._work_s(each, now) + max(0.0, seconds)
        each.counted_s = max(each.counted_s, now)

    def kept_busy(self, pool: str, members: float, seconds: float, now: float) -> None:
        """Count work that would have kept so many members busy for the last seconds."""
        life_s = self._rule.half_life_s / math.log(2.0)
        self.offered(pool, members * life_s * -math.expm1(-seconds / life_s), now)

    def _work_s(self, pool: _Pool, now: float) -> float:
        return pool.work_s * math.exp2(-max(0.0, now - pool.counted_s) / self._rule.half_life_s)

    def _busy(self, pool: _Pool, now: float) -> float:
        """The members that the work of late would have kept busy."""
        return self._work_s(pool, now) * math.log(2.0) / self._rule.half_life_s

    def wanted(self, pool: str, now: float) -> int:
        """The members that would keep the pool at its target, whatever others want."""
        each = self._pools[pool]
        busy = self._busy(each, now)
        return max(each.bounds.least, min(each.bounds.most, math.ceil(busy / self._rule.target_load - 1e-6)))

    def decide(self, current: Mapping[str, int], now: float) -> Sizes:
        """Return the sizes of all pools from those they have now, which include what is being started or drained."""
        free = self._free(current, now)  # what shrinks is not free yet
        due = {name: self._due(name, current.get(name, 0), now) for name in self._pools}
        sizes = {name: current.get(name, 0) for name in self._pools}
        shrinking = sorted(
            (name for name, size in due.items() if size < sizes[name]), key=lambda name: (due[name] - sizes[name], name)
        )
        changes = []
        for name in shrinking[: self._rule.max_changes]:
            changes.append(self._change(name, sizes[name], due[name], now))
            if self._rule.drain_s > 0:
                gone = (sizes[name] - due[name]) * self._pools[name].bounds.gpus
                self._draining.append((now + self._rule.drain_s, gone))
            sizes[name] = due[name]
        changes.extend(self._grow(due, sizes, free, self._rule.max_changes - len(changes), now))
        return Sizes(sizes, tuple(changes))

    def _free(self, current: Mapping[str, int], now: float) -> float:
        self._draining = [each for each in self._draining if now < each[0] <= now + self._rule.drain_s]
        used = sum(current.get(name, 0) * pool.bounds.gpus for name, pool in self._pools.items())
        return self._budget - used - sum(gpus for _, gpus in self._draining)

    def _grow(
        self, due: Mapping[str, int], sizes: dict[str, int], free: float, changes: int, now: float
    ) -> list[Change]:
        """Grow the pools that want it within what is free: one below its least first, then by value for each GPU."""
        hungry = sorted(
            (name for name in self._pools if due[name] > sizes[name]),
            key=lambda name: (
                sizes[name] >= self._pools[name].bounds.least,
                -self._hunger(name, sizes[name], due),
                name,
            ),
        )
        grown = []
        for name in hungry[: max(0, changes)]:
            gpus = self._pools[name].bounds.gpus
            wanted = due[name] - sizes[name]
            step = wanted if not gpus or math.isinf(free) else min(math.floor(free / gpus + SMALL), wanted)
            if step <= 0:
                continue
            grown.append(self._change(name, sizes[name], sizes[name] + step, now, is_cut=step < wanted))
            sizes[name] += step
            free -= step * gpus
        return grown

    def _hunger(self, name: str, size: int, due: Mapping[str, int]) -> float:
        return self._pools[name].bounds.value * (due[name] - size) / max(1, size)

    def _due(self, name: str, size: int, now: float) -> int:
        """The size that is due: what is wanted, once it has been wanted for long enough."""
        pool = self._pools[name]
        wanted = self.wanted(name, now)
        direction = (wanted > size) - (wanted < size)
        if direction != pool.direction or now < pool.since_s:
            pool.direction, pool.since_s = direction, now
        if size < pool.bounds.least or size > pool.bounds.most:
            return max(pool.bounds.least, min(pool.bounds.most, size))
        delay_s = self._rule.up_delay_s if direction > 0 else self._rule.down_delay_s
        return wanted if direction and now - pool.since_s >= delay_s else size

    def _change(self, name: str, before: int, after: int, now: float, *, is_cut: bool = False) -> Change:
        pool = self._pools[name]
        pool.direction, pool.since_s = 0, now  # the next change waits anew
        bounds = pool.bounds
        if not bounds.least <= before <= bounds.most:
            reason = f"it may have {bounds.least} to {bounds.most}"
        else:
            target = self._rule.target_load
            reason = f"work for {self._busy(pool, now):.1f} at {target:.0%} asks for {self.wanted(name, now)}"
        return Change(name, before, after, f"{reason}, of which the budget leaves {after}" if is_cut else reason)
