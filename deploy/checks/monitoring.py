"""Rules, their tests, alerts and dashboard: valid, about metrics that exist, with a page to read at night."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from deploy.checks.tools import HERE, complaint
from lego_serve.metrics import Metrics
from lego_serve.process.metrics_page import IN_FLIGHT

PROMETHEUS = HERE / "prometheus"
RUNBOOK = HERE.parent / "docs" / "runbook.md"
METRIC = re.compile(r"\blego_serve_[a-z0-9_]+")
SUFFIXES = ("_bucket", "_sum", "_count")


def rule_faults(rules: Path, tests: Path) -> Iterator[str]:
    """Yield what promtool says of the rules and their tests, and alerts without a test."""
    yield from complaint("promtool", "check", "rules", rules)
    yield from complaint("promtool", "test", "rules", tests)
    tested = {
        case["alertname"]
        for test in yaml.safe_load(tests.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
        if case["exp_alerts"]
    }
    yield from (f"{rules.name}: no test makes {alert} fire" for alert in sorted(set(alerts(rules)) - tested))


def config_faults(folder: Path = PROMETHEUS) -> Iterator[str]:
    """Yield what promtool and amtool say of the configurations, and alerts that reach the wrong receiver."""
    yield from complaint("promtool", "check", "config", folder / "prometheus.yml")
    yield from complaint("amtool", "check-config", folder / "alertmanager.yml")
    for severity, receiver in (("page", "pager"), ("ticket", "tickets")):
        words = (
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--verify.receivers={receiver}",
            f"severity={severity}",
        )
        yield from complaint("amtool", "config", "routes", "test", *words)


def text_faults(text: str) -> Iterator[str]:
    """Yield what promtool says of metrics as a gateway shows them."""
    yield from complaint("promtool", "check", "metrics", text=text)


def metric_faults() -> Iterator[str]:
    """Yield what promtool says of all our metrics, each with a value."""
    yield from text_faults(sample())


def sample() -> str:
    """A scrape in which every metric has a value."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for metric in [each for each in vars(metrics).values() if isinstance(each, Counter | Gauge | Histogram)]:
        names: Any = metric._labelnames
        if names:
            metric.labels(*names)
    return metrics.page({}).decode()


def runbook_faults(rules: Path, runbook: Path = RUNBOOK) -> Iterator[str]:
    """Yield alerts without a section of their name in the runbook."""
    headings = set(re.findall(r"^## (\w+)$", runbook.read_text(), re.M)) if runbook.exists() else set()
    yield from (f"{runbook.name}: has no section {alert}" for alert in alerts(rules) if alert not in headings)
    yield from (f"{runbook.name}: {name} is no alert" for name in sorted(headings - set(alerts(rules))))


def unknown_metrics(text: str, place: str) -> Iterator[str]:
    """Yield metrics that a text names and no gateway has."""
    known = exported()
    for name in sorted(set(METRIC.findall(text))):
        plain = next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)
        if name not in known and plain not in known:
            yield f"{place}: no metric is called {name}"


def exported() -> set[str]:
    """The names of all metrics, counters with their ending."""
    registry = CollectorRegistry()
    Metrics(registry)
    families: Any = registry.collect()
    names = {f"{each.name}_total" if each.type == "counter" else each.name for each in families}
    return names | {IN_FLIGHT}


def alerts(rules: Path) -> list[str]:
    """The names of the alerts in a file of rules."""
    groups = yaml.safe_load(rules.read_text())["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]
