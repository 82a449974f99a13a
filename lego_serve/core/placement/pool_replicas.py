"""What a pool knows of its replicas, which of them it uses, and when each of them could have a job's models."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from lego_serve.core.cluster.schedule import NEVER

FIRST_LOAD_S = 2.0  # of a model, before one was seen
OVERDUE_S = 5.0  # after which a model that should be there is not expected any more; replicas tell every two seconds


@dataclass(slots=True)
class Replica:
    """A replica's models, the jobs that are bound to it, and the models that these bring, with when they are there.

    ``held``: the models that it could not load, and until when it does not try again.
    """

    resident: set[str] = field(default_factory=set)
    jobs: set[str] = field(default_factory=set)
    loads: dict[str, float] = field(default_factory=dict)
    held: dict[str, float] = field(default_factory=dict)

    def reported(self, models: Iterable[str]) -> None:
        """Take the models that it has."""
        self.resident = set(models)
        for model in self.resident:
            self.loads.pop(model, None)
            self.held.pop(model, None)

    def may_have(self, model: str, now: float) -> bool:
        """Whether it has a model or may load it."""
        return self.held.get(model, now) <= now

    def drop_overdue(self, now: float) -> None:
        """Expect no longer what should have been there for a while: it was not loaded, or has gone again."""
        for model in [model for model, at_s in self.loads.items() if at_s + OVERDUE_S < now]:
            del self.loads[model]

    def bring(self, models: frozenset[str], load_s: Mapping[str, float], now: float) -> None:
        """Expect the models of a job that is bound to it, each after those that are expected already."""
        self.drop_overdue(now)
        at_s = max(now, *self.loads.values(), now)
        for model in sorted(models - self.resident - self.loads.keys()):
            if self.may_have(model, now):
                at_s += load_s.get(model, FIRST_LOAD_S)
                self.loads[model] = at_s


class PoolReplicas:
    """The replicas of a pool: ``usable`` are those that jobs are placed on.

    Those that drain or hang are known and set aside, until they are gone or well again.  What changes returns the jobs
    that have no replica any more.
    """

    def __init__(self) -> None:
        self.usable: dict[str, Replica] = {}
        self._aside: dict[str, Replica] = {}
        self._unwell: frozenset[str] = frozenset()

    def report(self, resident: Mapping[str, Collection[str]]) -> set[str]:
        """Take which replicas there are, and the models that each has."""
        homeless = self.remove((self.usable.keys() | self._aside.keys()) - resident.keys())
        for name, models in resident.items():
            place = self._aside if name in self._unwell else self.usable
            place.setdefault(name, Replica()).reported(models)
        return homeless

    def remove(self, names: Iterable[str]) -> set[str]:
        """Replicas are gone."""
        homeless: set[str] = set()
        for name in names:
            self._aside.pop(name, None)
            replica = self.usable.pop(name, None)
            homeless |= set() if replica is None else replica.jobs
        return homeless

    def set_aside(self, names: Collection[str]) -> set[str]:
        """These, and no others, are not to be used for now, whether they are known yet or not."""
        homeless: set[str] = set()
        self._unwell = frozenset(names)
        for name in [name for name in self.usable if name in self._unwell]:
            replica = self._aside[name] = self.usable.pop(name)
            homeless |= replica.jobs
            replica.jobs, replica.loads = set(), {}
        for name in [name for name in self._aside if name not in self._unwell]:
            self.usable[name] = self._aside.pop(name)
        return homeless

    def held_back(self, name: str, model: str, until_s: float) -> None:
        """A replica could not load a model, and does not try again before then."""
        for replica in (self.usable.get(name), self._aside.get(name)):
            if replica is not None and model not in replica.resident:
                replica.loads.pop(model, None)
                replica.held[model] = until_s

    def arrivals(self, load_s: Mapping[str, float], now: float) -> "Arrivals":
        """Return when each usable one could have models; ``load_s``: what loads of models took last."""
        for replica in self.usable.values():
            if replica.loads:
                replica.drop_overdue(now)
        return Arrivals(self.usable, load_s, now)


class Arrivals:
    """When replicas could have models, as of ``now``; what the same set takes is worked out once for all replicas."""

    def __init__(self, replicas: Mapping[str, Replica], load_s: Mapping[str, float], now: float) -> None:
        """``load_s``: what loads of models took last."""
        self._replicas, self._load_s, self._now = replicas.values(), load_s, now
        self._everywhere: dict[frozenset[str], list[float] | None] = {}

    def everywhere(self, models: frozenset[str]) -> list[float] | None:
        """When each replica could have the models, in their order, NEVER on those that hold one of them back.

        None where all have them now, and where all hold some back: whoever gets such a job says at once why not.
        """
        if models not in self._everywhere:
            loads = self._loads(models)
            ready_s = [self._at(replica, loads) for replica in self._replicas]
            is_everywhere = max(ready_s) <= self._now or min(ready_s) == NEVER
            self._everywhere[models] = None if is_everywhere else ready_s
        return self._everywhere[models]

    def at(self, replica: Replica, models: frozenset[str]) -> float:
        """When a replica could have the models: after what it loads of them already, it loads the others in turn."""
        return self._at(replica, self._loads(models))

    def _loads(self, models: frozenset[str]) -> list[tuple[str, float]]:
        return [(model, self._load_s.get(model, FIRST_LOAD_S)) for model in sorted(models)]

    def _at(self, replica: Replica, loads: Iterable[tuple[str, float]]) -> float:
        at_s, more_s = self._now, 0.0
        for model, seconds in loads:
            if model in replica.resident:
                continue
            if not replica.may_have(model, self._now):
                return NEVER
            arrives_s = replica.loads.get(model)
            if arrives_s is None:
                more_s += seconds
            elif arrives_s > at_s:
                at_s = arrives_s
        return at_s + more_s
