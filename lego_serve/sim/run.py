"""Runs one policy on one list of requests and says how it went."""

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lego_serve.sim.cluster import EXACT, Ended, Gpu, Noise, Residence, Setting, SimCluster, SimulationError, Span
from lego_serve.sim.workload import Request


class Policy(Protocol):
    """Gives orders to a cluster, from what it hears of requests and of the calls it has ordered."""

    def start(self, cluster: SimCluster) -> None:
        """Take the cluster, before the first request."""

    def arrive(self, request: Request) -> None:
        """Hear of a request."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of every request, and what the GPUs did."""

    ended: Sequence[Ended]
    gpus: Sequence[Gpu]
    span_s: float
    events: int
    spans: Sequence[Span] = ()
    residences: Sequence[Residence] = ()
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def attainment(self) -> float:
        """The share of all requests that were served in time."""
        return sum(each.status == "met" for each in self.ended) / len(self.ended) if self.ended else 1.0

    @property
    def goodput(self) -> float:
        """The requests served in time, by the second."""
        return sum(each.status == "met" for each in self.ended) / self.span_s if self.span_s else 0.0

    def by_class(self) -> dict[str, float]:
        """The attainment of each workflow."""
        total = Counter(each.request.workflow for each in self.ended)
        met = Counter(each.request.workflow for each in self.ended if each.status == "met")
        return {name: met[name] / total[name] for name in sorted(total)}

    def latencies(self) -> list[float]:
        """The seconds of each request that ended with an image, in order."""
        return sorted(e.at_s - e.request.at_s for e in self.ended if e.status in ("met", "late"))

    def statuses(self) -> dict[str, int]:
        """How many requests ended in which way."""
        return dict(sorted(Counter(each.status for each in self.ended).items()))


def simulate(
    setting: Setting,
    requests: Sequence[Request],
    policy: Policy,
    *,
    noise: Noise = EXACT,
    seed: int = 0,
    window_s: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Run a policy until every request has ended or nothing happens any more."""
    cluster = SimCluster(setting, noise, seed, window_s)
    policy.start(cluster)
    pending = iter(requests)

    def arrive(request: Request) -> None:
        following = next(pending, None)
        if following is not None:
            cluster.engine.at(following.at_s, arrive, following)
        if progress is not None and request.id % 256 == 0:
            progress(request.id)
        policy.arrive(request)

    first = next(pending, None)
    if first is not None:
        cluster.engine.at(first.at_s, arrive, first)
        _run(cluster)
    for request in requests:
        if request.id not in cluster.ended:
            cluster.ended[request.id] = Ended(request, "unfinished", cluster.now, "nothing happens any more")
    _check(cluster)
    ended = [cluster.ended[request.id] for request in requests]
    notes = getattr(policy, "notes", {})
    span_s = requests[-1].at_s - requests[0].at_s if requests else 0.0
    return Outcome(ended, cluster.gpus, span_s, cluster.engine.events, cluster.spans, cluster.residences, dict(notes))


def _run(cluster: SimCluster) -> None:
    """Run all events; a simulation makes no cycles worth looking for."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        cluster.engine.run()
    finally:
        if was_enabled:
            gc.enable()


def _check(cluster: SimCluster) -> None:
    """Nothing is lost or made up: no GPU worked longer than the simulation took, none holds more than it can."""
    for gpu in cluster.gpus:
        if gpu.busy_s > cluster.now * (1 + 1e-9) + 1e-6:
            raise SimulationError(f"GPU {gpu.id} was busy for {gpu.busy_s:.3f} of {cluster.now:.3f} s")
        held = sum(cluster.setting.costs.size_bytes((m,)) for m in (*gpu.resident, *gpu.loading))
        if held != gpu.used_bytes or held > gpu.memory_bytes:
            raise SimulationError(f"GPU {gpu.id} holds {held} bytes, accounts for {gpu.used_bytes}")
