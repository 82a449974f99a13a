"""Checks deploy/ as far as that can be done without a cluster: ``python -m deploy.checks``, a part of `make check`."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from deploy import generate
from deploy.checks import growth, inventory, kinds, monitoring, network, operator, packaging, plants, serving
from deploy.checks.tools import HERE, KUBERNETES, OVERLAYS, ToolMissing, overlay, rendered, with_component

RULES = HERE / "prometheus" / "rules.yaml"
TABLES = {
    "cpu-dev": (*network.TABLE, *network.REDIS_TABLE),
    "single-gpu": (*network.TABLE, *network.REDIS_TABLE),
    "prod-ha": (*network.TABLE, *network.REDIS_TABLE, *network.MONITORING_TABLE),
    "prod-autoscaled": (*network.TABLE, *network.REDIS_TABLE, *network.MONITORING_TABLE),
}


def _manifests() -> Iterator[str]:
    for name in OVERLAYS:
        yield from (f"{name}: {fault}" for fault in kinds.faults(overlay(name)))
        yield from (f"{name}: {fault}" for fault in operator.faults(overlay(name)))
        yield from (f"{name}: {fault}" for fault in operator.crd_faults(overlay(name)))
        yield from (f"{name}: {fault}" for fault in operator.image_faults(overlay(name)))
    yield from (f"base: {fault}" for fault in kinds.faults(rendered(KUBERNETES / "base")))
    for path in sorted((KUBERNETES / "components").iterdir()):
        alone = with_component(path.name)
        yield from (f"{path.name}: {fault}" for fault in chain(kinds.faults(alone), operator.faults(alone)))


def _nodes() -> Iterator[str]:
    yield from serving.stale_files(generate.files())
    for name in OVERLAYS:
        config = KUBERNETES / "overlays" / name / "config.yaml"
        yield from (f"{name}: {fault}" for fault in serving.faults(overlay(name), config))
        yield from (f"{name}: {fault}" for fault in growth.faults(overlay(name), config))


def _monitoring() -> Iterator[str]:
    yield from monitoring.unknown_metrics(RULES.read_text(), RULES.name)
    yield from monitoring.unknown_metrics((HERE / "grafana" / "lego-serve.json").read_text(), "lego-serve.json")
    yield from monitoring.runbook_faults(RULES)


def _compose() -> Iterator[str]:
    yield from packaging.compose_faults()
    yield from packaging.server_faults(HERE / "compose" / "config.yaml", HERE / "compose" / "keys.yaml")


CHECKS: dict[str, Callable[[], Iterable[str]]] = {
    "manifests": _manifests,
    "nodes": _nodes,
    "network": lambda: chain.from_iterable(network.faults(overlay(name), table) for name, table in TABLES.items()),
    "monitoring": _monitoring,
    "metrics": monitoring.metric_faults,
    "rules": lambda: monitoring.rule_faults(RULES, HERE / "prometheus" / "rules_test.yaml"),
    "alertmanager": monitoring.config_faults,
    "compose": _compose,
    "Dockerfile": packaging.dockerfile_faults,
    "inventory": inventory.faults,
}


def main() -> int:
    """Run all checks, and each once more over a fault that it must find; answers the exit status."""
    count, began = 0, time.monotonic()
    for name, check in CHECKS.items():
        started = time.monotonic()
        try:
            found = list(check())
            if not plants.found(plants.PLANTS[name]):
                found.append("finds nothing in what was made wrong for it")
        except ToolMissing as missing:
            sys.stdout.write(f"{name}: skipped, {missing}\n")
            continue
        count += len(found)
        told = f"{len(found)} faults" if found else "ok, and finds what is planted"
        sys.stdout.write(f"{name}: {told} ({time.monotonic() - started:.1f} s)\n")
        for fault in found:
            sys.stdout.write(f"  {fault}\n")
    sys.stdout.write(f"deploy/: {count} faults ({time.monotonic() - began:.0f} s)\n")
    return min(count, 1)


if __name__ == "__main__":
    sys.exit(main())
