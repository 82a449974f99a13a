"""What a pool knows of its replicas, and when each of them could have a job's models."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

FIRST_LOAD_S = 2.0  # of a model, before one was seen


@dataclass(slots=True)
class Replica:
    """A replica's models, the jobs that are bound to it, and the models that these bring, with when they are there."""

    resident: set[str] = field(default_factory=set)
    jobs: set[str] = field(default_factory=set)
    loads: dict[str, float] = field(default_factory=dict)


class Arrivals:
    """When replicas could have models, as of ``now``; what the same set takes is worked out once for all replicas."""

    def __init__(self, replicas: Mapping[str, Replica], load_s: Mapping[str, float], now: float) -> None:
        """``load_s``: what loads of models took last."""
        self._replicas, self._load_s, self._now = replicas.values(), load_s, now
        self._everywhere: dict[frozenset[str], list[float] | None] = {}

    def everywhere(self, models: frozenset[str]) -> list[float] | None:
        """When each replica could have the models, in their order; None where all have them now."""
        if models not in self._everywhere:
            loads = self._loads(models)
            ready_s = [self._at(replica, loads) for replica in self._replicas]
            self._everywhere[models] = ready_s if max(ready_s) > self._now else None
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
            arrives_s = replica.loads.get(model)
            if arrives_s is None:
                more_s += seconds
            elif arrives_s > at_s:
                at_s = arrives_s
        return at_s + more_s
