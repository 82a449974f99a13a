"""Checks deploy/ as far as that can be done without a cluster: ``python -m deploy.checks``, a part of `make check`."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from deploy import generate
from deploy.checks import kinds, monitoring, network, operator, packaging, serving
from deploy.checks.tools import HERE, KUBERNETES, OVERLAYS, ToolMissing, overlay, rendered

RULES = HERE / "prometheus" / "rules.yaml"
COMPONENTS = ("redis", "monitoring", "ingress", "model-pvc", "gpu", "incremental-upgrade")
TABLES = {
    "cpu-dev": (*network.TABLE, *network.REDIS_TABLE),
    "single-gpu": (*network.TABLE, *network.REDIS_TABLE),
    "prod-ha": (*network.TABLE, *network.REDIS_TABLE, *network.MONITORING_TABLE),
}


def _manifests() -> Iterator[str]:
    for name in OVERLAYS:
        yield from (f"{name}: {fault}" for fault in kinds.faults(overlay(name)))
        yield from (f"{name}: {fault}" for fault in operator.faults(overlay(name)))
        yield from (f"{name}: {fault}" for fault in operator.crd_faults(overlay(name)))
    yield from (f"base: {fault}" for fault in kinds.faults(rendered(KUBERNETES / "base")))
    used = {path.name for path in (KUBERNETES / "components").iterdir()}
    yield from (f"component {name} is checked by nothing" for name in sorted(used - set(COMPONENTS)))


def _nodes() -> Iterator[str]:
    yield from serving.stale_files(generate.files())
    for name in OVERLAYS:
        config = KUBERNETES / "overlays" / name / "config.yaml"
        yield from (f"{name}: {fault}" for fault in serving.faults(overlay(name), config))


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
    "rules": lambda: monitoring.rule_faults(RULES, HERE / "prometheus" / "rules_test.yaml"),
    "alertmanager": monitoring.config_faults,
    "compose": _compose,
    "Dockerfile": packaging.dockerfile_faults,
}


def main() -> int:
    """Run all checks; answers the exit status."""
    count = 0
    for name, check in CHECKS.items():
        started = time.monotonic()
        try:
            found = list(check())
        except ToolMissing as missing:
            sys.stdout.write(f"{name}: skipped, {missing}\n")
            continue
        count += len(found)
        sys.stdout.write(
            f"{name}: {'ok' if not found else f'{len(found)} faults'} ({time.monotonic() - started:.1f} s)\n"
        )
        for fault in found:
            sys.stdout.write(f"  {fault}\n")
    return min(count, 1)


if __name__ == "__main__":
    sys.exit(main())
