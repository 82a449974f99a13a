"""Whether replicas fit the machines that there may be: what is to grow has machines to grow on, and these may go again.

Sums over machines, as Ray's autoscaler counts them: the number of processors that `rayStartParams` name, GPUs and bytes
of the container's limits.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.checks.tools import Manifest
from lego_serve import config as configuration
from lego_serve.cluster.serve_config import on_a_cluster
from lego_serve.configuration.models import Node, Placed, Replicas
from lego_serve.configuration.workers import Workers
from lego_serve.core.placement.room import LabelRule

RESOURCES = ("CPU", "GPU", "memory")
POWERS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
SMALL = 1e-9  # sums of fractions are not exact


@dataclass(frozen=True, slots=True)
class Group:
    """A class of machines: what each has, its labels, and how many there may be."""

    name: str
    has: Mapping[str, float]
    labels: Mapping[str, str]
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What each replica of a node asks for, where, and how many there may be."""

    name: str
    asks: Mapping[str, float]
    placed: Placed
    replicas: Replicas

    def fits(self, group: Group) -> bool:
        """Whether an empty machine has room for one replica."""
        rules = (LabelRule.read(key, rule) for key, rule in self.placed.labels.items())
        has_room = all(amount <= group.has[name] + SMALL for name, amount in self.asks.items())
        return has_room and all(rule.holds(group.labels) for rule in rules)


def faults(manifests: Iterable[Manifest], config: Path) -> Iterator[str]:
    """Yield what of one overlay could not grow, or not shrink, as its configuration says."""
    settings, _ = on_a_cluster(config)
    for manifest in manifests:
        if manifest["kind"] == "RayService":
            cluster = manifest["spec"]["rayClusterConfig"]
            groups = [_group(each) for each in cluster["workerGroupSpecs"]]
            yield from _crowded(_all_wanted(settings), groups, settings)
            yield from _fixed(groups, cluster)


def _group(spec: Manifest) -> Group:
    limits = spec["template"]["spec"]["containers"][0]["resources"]["limits"]
    params = spec["rayStartParams"]
    gpus = sum(float(number) for name, number in limits.items() if name.startswith("nvidia.com/"))
    has = {
        "CPU": float(params["num-cpus"]),
        "GPU": float(params.get("num-gpus", gpus)),
        "memory": _bytes(str(limits["memory"])),
    }
    return Group(spec["groupName"], has, spec.get("labels", {}), spec["minReplicas"], spec["maxReplicas"])


def _bytes(quantity: str) -> float:
    power = POWERS.get(quantity[-2:])
    return float(quantity) if power is None else float(quantity[:-2]) * power


def _all_wanted(settings: configuration.Settings) -> list[Wanted]:
    """The deployments of a configuration, shared workers among them."""
    found, is_shared = [], False
    for model, chosen in settings.models.items():
        for name in type(chosen.nodes).model_fields:
            node: Node = getattr(chosen.nodes, name)
            is_shared = is_shared or node.placement == "shared"
            if node.placement == "dedicated":
                found.append(Wanted(f"{model}.{name}", _asks(node), node, node.replicas))
        if (adapters := chosen.adapters) is not None:
            asks = {"CPU": adapters.cpus, "GPU": 0.0, "memory": adapters.memory_bytes}
            found.append(Wanted(f"{model}.adapters", asks, adapters, Replicas()))
    workers = settings.workers
    return [*found, Wanted("workers", _asks(workers), workers, workers.replicas)] if is_shared else found


def _asks(placed: Node | Workers) -> dict[str, float]:
    return {"CPU": placed.cpus, "GPU": placed.gpus, "memory": placed.memory_bytes}


def _crowded(wanted: list[Wanted], groups: list[Group], settings: configuration.Settings) -> Iterator[str]:
    """Replicas that would wait for machines for ever, however many come."""
    places = {each.name: [group for group in groups if each.fits(group)] for each in wanted}
    for each in wanted:
        most, per_node = sum(group.most for group in places[each.name]), each.placed.max_per_node
        if not most:
            yield f"{each.name}: an empty machine of no group has room for a replica"
        elif per_node is not None and each.replicas.max > most * per_node:
            yield f"{each.name}: {each.replicas.max} replicas, {per_node} a machine, of which there are at most {most}"
        if not any(each.asks.values()):
            yield f"{each.name}: it reserves nothing, and a machine on which nothing is reserved goes"
    for names in {tuple(group.name for group in found) for found in places.values() if found}:
        alike = [each for each in wanted if tuple(group.name for group in places[each.name]) == names]
        for resource in RESOURCES:
            has = sum(group.has[resource] * group.most for group in groups if group.name in names)
            asked = _bounded(alike, resource, settings)
            if asked > has + SMALL:
                yield (
                    f"{', '.join(names)}: replicas ask for up to {asked:g} {resource}, and `maxReplicas` leave "
                    f"{has:g}: lower `replicas.max` or `budget`"
                )


def _bounded(wanted: list[Wanted], resource: str, settings: configuration.Settings) -> float:
    """What nodes ask for together at most; not counted is what a budget of another resource bounds."""
    budget, total = settings.budget, 0.0
    for has_gpu, bound, bounded in ((True, budget.gpus, "GPU"), (False, budget.cpus, "CPU")):
        some = [each for each in wanted if bool(each.asks["GPU"]) is has_gpu]
        asked = sum(each.asks[resource] * each.replicas.max for each in some)
        if bound is not None:
            asked = min(asked, bound) if resource == bounded else 0.0
        total += asked
    return total


def _fixed(groups: list[Group], cluster: Mapping[str, Any]) -> Iterator[str]:
    """Groups that the autoscaler would not serve as their numbers say."""
    options = cluster.get("autoscalerOptions", {})
    for group in groups:
        if group.least < group.most and not cluster.get("enableInTreeAutoscaling"):
            yield f"{group.name}: without enableInTreeAutoscaling nothing adds a machine"
        if group.least < group.most and options.get("version") != "v2":
            yield f"{group.name}: what waits for a machine is read of autoscalers of `version: v2` alone"
        if group.least < group.most and not group.has["CPU"]:
            yield f"{group.name}: the autoscaler takes machines without processors for idle: give min = maxReplicas"
