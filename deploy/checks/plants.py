"""A fault for every check: what finds nothing in it finds nothing at all."""

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from deploy import generate
from deploy.checks import growth, inventory, kinds, monitoring, network, operator, packaging, serving
from deploy.checks.tools import HERE, KUBERNETES, overlay

Plant = Callable[[Path], Iterable[str]]


def found(plant: Plant) -> bool:
    """Whether a check finds a planted fault; it has a folder of its own for what it changes."""
    with tempfile.TemporaryDirectory() as folder:
        return any(plant(Path(folder)))


def _prod() -> tuple[list[Any], Any]:
    """prod-ha's manifests, to be changed, and its RayService."""
    manifests = copy.deepcopy(list(overlay("prod-ha")))
    return manifests, next(each for each in manifests if each["kind"] == "RayService")


def _manifests(_: Path) -> Iterator[str]:
    """One for each of the three that look at manifests; all must find theirs."""
    manifests, service = _prod()
    service["spec"]["rayClusterConfig"]["rayVersions"] = "2"
    misspelt = [*kinds.faults(manifests), *operator.crd_faults(manifests)]
    manifests, service = _prod()
    service["spec"]["rayClusterConfig"]["authOptions"].pop("mode")
    misunderstood = list(operator.faults(manifests))
    if misspelt and misunderstood:
        yield from (*misspelt, *misunderstood)


def _nodes(folder: Path) -> Iterator[str]:
    """Serve's unknown key, a class without machines or with too few, a file that is not current; all must be found."""
    document = yaml.safe_load(_prod()[1]["spec"]["serveConfigV2"])
    document["proxy_lokation"] = "Disabled"
    config = folder / "config.yaml"
    config.write_text((KUBERNETES / "overlays" / "prod-ha" / "config.yaml").read_text().replace("large-gpu", "h100"))
    path = next(iter(generate.files()))
    four = (
        list(serving.serve_faults(document)),
        list(growth.faults(_few_machines(), KUBERNETES / "overlays" / "prod-autoscaled" / "config.yaml")),
        list(serving.placeless(config, [{"lego-class": "gpu"}])),
        list(serving.stale_files({path: "other"})),
    )
    if all(four):
        yield from chain.from_iterable(four)


def _few_machines() -> list[Any]:
    """prod-autoscaled's manifests with one machine for all workers."""
    manifests = copy.deepcopy(list(overlay("prod-autoscaled")))
    service = next(each for each in manifests if each["kind"] == "RayService")
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][1]["maxReplicas"] = 1
    return manifests


def _network(_: Path) -> Iterator[str]:
    manifests = _prod()[0]
    without = [each for each in manifests if each["metadata"]["name"] != "operator-to-head"]
    return network.faults(without, network.TABLE)


def _monitoring(folder: Path) -> Iterator[str]:
    runbook = folder / "runbook.md"
    runbook.write_text("## NoReadyGateway\n")
    two = (
        list(monitoring.unknown_metrics("rate(lego_serve_request_total[5m])", "x")),
        list(monitoring.runbook_faults(HERE / "prometheus" / "rules.yaml", runbook)),
    )
    if all(two):
        yield from chain.from_iterable(two)


def _rules(folder: Path) -> Iterator[str]:
    for name in ("rules.yaml", "rules_test.yaml"):
        text = (HERE / "prometheus" / name).read_text()
        (folder / name).write_text(text.replace("> 0.144 and", "> 0.9 and"))
    return monitoring.rule_faults(folder / "rules.yaml", folder / "rules_test.yaml")


def _alertmanager(folder: Path) -> Iterator[str]:
    for path in (HERE / "prometheus").glob("*.y*ml"):
        (folder / path.name).write_text(path.read_text().replace('severity="page"', 'severity="pages"'))
    return monitoring.config_faults(folder)


def _metrics(_: Path) -> Iterator[str]:
    return monitoring.text_faults("# TYPE lego_serve_wait_ms gauge\nlego_serve_wait_ms 1\n")


def _compose(folder: Path) -> Iterator[str]:
    (folder / "compose.yaml").write_text(packaging.COMPOSE.read_text().replace("read_only: true", "read_olny: true", 1))
    return packaging.compose_faults(folder / "compose.yaml")


def _dockerfile(folder: Path) -> Iterator[str]:
    (folder / "Dockerfile").write_text("FROM python:latest\nUSER root\n")
    return packaging.dockerfile_faults(folder / "Dockerfile")


def _inventory(folder: Path) -> Iterator[str]:
    return inventory.faults(folder / "nothing-is-installed-here")


PLANTS: dict[str, Plant] = {
    "manifests": _manifests,
    "nodes": _nodes,
    "network": _network,
    "monitoring": _monitoring,
    "metrics": _metrics,
    "rules": _rules,
    "alertmanager": _alertmanager,
    "compose": _compose,
    "Dockerfile": _dockerfile,
    "inventory": _inventory,
}
